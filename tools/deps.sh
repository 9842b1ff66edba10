#!/bin/sh
# deps.sh [--check] build|test... - finds which packages are missing and installs them.
#
# What  Tries to compile against each library that the named groups need.  Silent when all of them work.
# Why   A person with git, gcc and make should need one command.
# How   Debian through apt-get, macOS through Homebrew.  Says what it is about to install before it does, and
#       prints the command when it may not or cannot run it.  --check only says what is missing.
# Careful
#       - Asks the compiler, not the package manager: a library that was built by hand counts.
#       - pkg-config may be missing itself; on Debian plain -l is enough without it.
set -u

CC=${CC:-cc}
check=0
packages=

# works HEADERS PC-NAME LIBRARY: can a program that includes and links it be built?  NAME=VALUE among the headers is a
# definition before them.
works() {
	flags=$(pkg-config --cflags --libs "$2" 2>/dev/null) || flags="-l$3"
	{
		for h in $1; do
			case $h in
			*=*) echo "#define ${h%%=*} ${h#*=}" ;;
			*) echo "#include <$h>" ;;
			esac
		done
		echo 'int main(void) { return 0; }'
	} | $CC -x c - -o /dev/null $flags 2>/dev/null
}

# need DEBIAN BREW HEADERS PC-NAME LIBRARY
need() {
	works "$3" "$4" "$5" && return
	case $manager in
	brew) [ "$2" = - ] || packages="$packages $2" ;;
	*) packages="$packages $1" ;;
	esac
}

if command -v apt-get >/dev/null 2>&1; then
	manager=apt
elif command -v brew >/dev/null 2>&1; then
	manager=brew
else
	manager=none
fi

# Homebrew keeps OpenSSL out of the standard folders.
if [ $manager = brew ]; then
	PKG_CONFIG_PATH=$(brew --prefix openssl@3)/lib/pkgconfig:${PKG_CONFIG_PATH:-}
	export PKG_CONFIG_PATH
fi

if ! command -v "$CC" >/dev/null 2>&1 && [ "${CC#* }" = "$CC" ]; then
	echo "ds4: no C compiler: '$CC' was not found (Debian: apt-get install gcc; macOS: xcode-select --install)" >&2
	exit 1
fi

for group; do
	case $group in
	--check) check=1 ;;
	build)
		need libjansson-dev jansson jansson.h jansson jansson
		need libedit-dev - histedit.h libedit edit
		need libxxhash-dev xxhash xxhash.h libxxhash xxhash
		need libcurl4-openssl-dev - curl/curl.h libcurl curl
		need libssl-dev openssl@3 openssl/evp.h libcrypto crypto
		need libevent-dev libevent event2/event.h libevent event
		;;
	test)
		need libcmocka-dev cmocka "stdarg.h stddef.h stdint.h setjmp.h cmocka.h" cmocka cmocka
		;;
	*)
		echo "deps.sh: unknown group '$group', expected build or test" >&2
		exit 2
		;;
	esac
done
[ -n "$packages" ] || exit 0

# Something is missing, so pkg-config earns its place too: it finds what is not in the standard folders.
if ! command -v pkg-config >/dev/null 2>&1; then
	[ "$manager" = brew ] && packages="$packages pkgconf" || packages="$packages pkg-config"
fi
packages=${packages# }

case $manager in
apt) install="apt-get install -y --no-install-recommends $packages" ;;
brew) install="brew install $packages" ;;
none)
	echo "ds4: these packages (Debian's names) are missing and neither apt-get nor brew was found: $packages" >&2
	exit 1
	;;
esac
root=
if [ "$manager" = apt ] && [ "$(id -u)" != 0 ]; then
	root="sudo "
fi

if [ $check = 1 ]; then
	echo "ds4: missing packages: $packages" >&2
	echo "     \`make deps\` installs them, or run: $root$install" >&2
	exit 1
fi
if [ -n "$root" ] && ! command -v sudo >/dev/null 2>&1; then
	echo "ds4: missing packages: $packages" >&2
	echo "     Only root may install them; run as root: $install" >&2
	exit 1
fi

echo "ds4: about to install missing packages: $packages"
echo "     $root$install"
export DEBIAN_FRONTEND=noninteractive
quiet=-qq
if [ "$manager" = apt ]; then
	# A fresh machine has no package lists, an old one has lists of packages that are gone.
	try() { ${root:+sudo -E} apt-get $quiet install -y --no-install-recommends $packages </dev/null >/dev/null; }
	try 2>/dev/null || { ${root:+sudo -E} apt-get $quiet update && try; }
else
	brew install $packages
fi || {
	echo "ds4: the installation failed; this is the command: $root$install" >&2
	exit 1
}
