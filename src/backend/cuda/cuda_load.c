/* cuda_load.c - finds and loads libds4_cuda.so, so that one program serves machines with and without a GPU.
 *
 * What  cuda_available() and cuda_open(); everything else of the backend is in the shared object.
 * Why   Linking CUDA would make its driver a requirement of every installation.
 * How   dlopen on the first question; the answer, good or bad, is kept for the life of the process.
 * Careful
 *       - A library built from other headers is refused by its number: the table of operations is passed by layout.
 *       - Loading starts no work on the device; opening a backend does. */
#include "backend/cuda/cuda.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/cuda/cuda_abi.h"

#define LIBRARY "libds4_cuda.so"

static struct {
	bool tried;
	int devices;
	struct err why;		/* when devices is 0 */
	enum status (*open)(struct backend **out, const struct be_options *opt, struct err *err);
} lib;

/* Folder of the running program, with its slash. */
static void program_folder(char *out, size_t room)
{
	ssize_t n = readlink("/proc/self/exe", out, room - 1);
	char *slash;

	out[n > 0 ? n : 0] = 0;
	slash = strrchr(out, '/');
	if (slash)
		slash[1] = 0;
	else
		snprintf(out, room, "./");
}

static void *load(void)
{
	static const char *const places[] = {"", "../lib/ds4/", "../lib/", "build/"};
	const char *given = getenv("DS4_CUDA_LIB");
	char folder[3000], path[4096];
	void *h;

	if (given && *given)
		return dlopen(given, RTLD_NOW | RTLD_LOCAL);
	program_folder(folder, sizeof folder);
	for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
		snprintf(path, sizeof path, "%s%s" LIBRARY, folder, places[i]);
		if (access(path, R_OK))
			continue;
		h = dlopen(path, RTLD_NOW | RTLD_LOCAL);
		if (h)
			return h;
		err_set(&lib.why, ERR_DEVICE, "%s does not load: %s", path, dlerror());
		return NULL;
	}
	err_set(&lib.why, ERR_NOT_FOUND, "this installation has no CUDA support: expected " LIBRARY " in %s", folder);
	return NULL;
}

/* dlsym gives an object pointer; POSIX promises that the bits are a function's address. */
static bool find(void *h, const char *name, void *fn, size_t size)
{
	void *p = dlsym(h, name);

	memcpy(fn, &p, size);
	if (!p)
		err_set(&lib.why, ERR_DEVICE, LIBRARY " has no function %s: it is from another version", name);
	return p != NULL;
}

static void try_once(void)
{
	int (*abi)(void), (*devices)(struct err *err);
	void *h;

	if (lib.tried)
		return;
	lib.tried = true;
	h = load();
	if (!h) {
		if (lib.why.code == OK)
			err_set(&lib.why, ERR_DEVICE, "the library of $DS4_CUDA_LIB does not load: %s", dlerror());
		return;
	}
	if (!find(h, "ds4_cuda_abi", &abi, sizeof abi) || !find(h, "ds4_cuda_devices", &devices, sizeof devices) ||
	    !find(h, "ds4_cuda_open", &lib.open, sizeof lib.open))
		return;
	if (abi() != CUDA_ABI) {
		err_set(&lib.why, ERR_DEVICE, LIBRARY " was built from another version: expected interface %d, it has %d",
			CUDA_ABI, abi());
		return;
	}
	lib.devices = devices(&lib.why);
}

bool cuda_available(void)
{
	try_once();
	return lib.devices > 0;
}

enum status cuda_open(struct backend **out, const struct be_options *opt, struct err *err)
{
	*out = NULL;
	if (!cuda_available()) {
		if (err)
			*err = lib.why;
		return lib.why.code;
	}
	return lib.open(out, opt, err);
}
