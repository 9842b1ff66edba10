# ds4.  Two commands for users:  make run   and   make test.   `make help` lists the rest.
#
# Pattern rules only.  Every src/**/*.c goes into build/libds4.a except src/cli/main.c, which with the
# library is ./ds4.  Every tests/**/*_test.c is a test program; other .c files under tests/support are linked
# into all of them; every tests/fuzz/*_fuzz.c is a libFuzzer target.  Nothing is listed by hand, so a new
# file is picked up by existing.
#
# One tree of outputs per variant: build (plain), build/asan, build/tsan, build/fuzz.  A variant is the same
# rules run again with VARIANT set.
#
# Careful
#   - `run` and `test` install packages first, and what pkg-config says changes with that: they call make
#     again instead of listing prerequisites.
#   - Has to parse in GNU make 3.81, which macOS ships.

.DEFAULT_GOAL := all
.SUFFIXES:
.DELETE_ON_ERROR:

VARIANT ?=
PREFIX  ?= /usr/local
JOBS    ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
MODEL   := models/ds4-nano-q2.gguf
B       := build$(if $(VARIANT),/$(VARIANT))

# As many compilers as cores, unless the command line says otherwise (it wins over this line).
ifeq ($(MAKELEVEL)$(filter clean,$(MAKECMDGOALS)),0)
MAKEFLAGS += -j$(JOBS) --no-print-directory
endif

# --- what there is --------------------------------------------------------------------------------------

MACHINE   := $(shell $(CC) -dumpmachine 2>/dev/null)
x86_FILES := %_avx2.c %_avx512.c %_amx.c
arm_FILES := %_neon.c %_dotprod.c %_i8mm.c
SKIP      := $(if $(filter x86_64% amd64%,$(MACHINE)),,$(x86_FILES)) \
             $(if $(filter aarch64% arm64%,$(MACHINE)),,$(arm_FILES))

SRC      := $(filter-out $(SKIP),$(sort $(shell find src -name '*.c')))
MAIN_SRC := $(filter src/cli/main.c,$(SRC))
LIB_SRC  := $(filter-out $(MAIN_SRC),$(SRC))
TEST_SRC := $(filter-out tests/metalsim/%,$(sort $(shell find tests -name '*_test.c' 2>/dev/null)))
HELP_SRC := $(sort $(wildcard tests/support/*.c))
FUZZ_SRC := $(sort $(wildcard tests/fuzz/*_fuzz.c))
SCRIPTS  := $(filter-out %/lib.sh %/common.sh,$(sort $(wildcard tests/cli/*.sh)))

# On a Mac the Metal backend is part of the library: Objective-C, and the shaders as one C string.
DARWIN    := $(findstring darwin,$(MACHINE))
METAL_SRC := $(wildcard src/backend/metal/*.metal src/backend/metal/*.h) src/backend/geom.h src/quant/iq2_tables.h
METAL_O   := $(if $(DARWIN),$(patsubst %.m,$(B)/obj/%.o,$(sort $(wildcard src/backend/metal/*.m))) $(B)/obj/metal_source.o)

# T=word keeps only the tests whose path contains the word.
T ?=
only = $(if $(T),$(foreach f,$(1),$(if $(findstring $(T),$(f)),$(f))),$(1))

# Mutation tests are about memory errors, so they run under the sanitizers alone; the parsers of files and
# text, which outsiders feed, run both ways.
MUTATION   := %_mutation_test.c %/mutation_test.c
ASAN_FILES := tests/unit/base/% tests/unit/quant/% tests/unit/gguf/% tests/unit/tokenizer/% tests/unit/chat/% tests/unit/hub/% \
              tests/unit/workshop/refusal_test.c tests/unit/workshop/imatrix% \
              tests/unit/engine/engine_test.c tests/unit/engine/stops_test.c \
              tests/unit/grammar/% tests/unit/turn/history_test.c \
              tests/unit/kvstore/store_test.c tests/unit/kvstore/fault_test.c tests/unit/server/% $(MUTATION)
TSAN_FILES := tests/unit/base/% tests/unit/backend/% tests/unit/engine/% tests/unit/hub/% \
              tests/unit/kvstore/store_test.c tests/unit/kvstore/fault_test.c tests/unit/kvstore/crash_test.c \
              tests/unit/chat/replay_test.c tests/unit/server/http_test.c tests/unit/server/loop_test.c \
              tests/unit/turn/turn_test.c

PLAIN_TESTS := $(call only,$(filter-out $(MUTATION),$(TEST_SRC)))
ASAN_TESTS  := $(call only,$(filter $(ASAN_FILES),$(TEST_SRC)))
TSAN_TESTS  := $(call only,$(filter $(TSAN_FILES),$(filter-out $(MUTATION),$(TEST_SRC))))

obj  = $(patsubst %.c,$(B)/obj/%.o,$(1))
prog = $(patsubst %.c,$(2)/%,$(1))

# --- flags ----------------------------------------------------------------------------------------------

# Homebrew keeps OpenSSL out of the standard folders.
KEG := $(if $(findstring darwin,$(MACHINE)),$(shell brew --prefix openssl@3 2>/dev/null))
pkg = $(shell $(if $(KEG),PKG_CONFIG_PATH='$(KEG)/lib/pkgconfig:$(PKG_CONFIG_PATH)') pkg-config $(1) $(2) 2>/dev/null)

WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes $(if $(filter 1,$(WERROR)),-Werror)

# Neither -ffast-math nor fused multiply-add: a sum has the same bits on every compiler and machine.
FP   := -ffp-contract=off -fno-math-errno -fno-trapping-math -fopenmp-simd

OPT_      := -O3 -g
OPT_asan  := -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
OPT_tsan  := -O1 -g -fno-omit-frame-pointer -fsanitize=thread
OPT_fuzz  := -O1 -g -fno-omit-frame-pointer -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all
ifeq ($(VARIANT),fuzz)
CC := clang
endif
ifeq ($(VARIANT),tsan)
WARN += -Wno-unknown-warning-option -Wno-tsan
endif

EVENT := libevent libevent_pthreads libevent_openssl
FLAGS = -std=gnu11 $(OPT_$(VARIANT)) $(FP) -pthread $(WARN) -Isrc \
        $(call pkg,--cflags,jansson) $(call pkg,--cflags,libcurl) $(call pkg,--cflags,libcrypto) \
        $(call pkg,--cflags,$(EVENT)) $(CPPFLAGS) $(CFLAGS)
CLI_FLAGS  = $(call pkg,--cflags,libedit) -DDS4_VERSION='"$(VERSION)"' -DDS4_PREFIX='"$(PREFIX)"'
TEST_FLAGS = -Itests $(call pkg,--cflags,cmocka)
LIBS  = $(or $(call pkg,--libs,jansson),-ljansson) $(or $(call pkg,--libs,libedit),-ledit) \
        $(or $(call pkg,--libs,libcurl),-lcurl) \
        $(or $(call pkg,--libs,$(EVENT)),-levent -levent_pthreads -levent_openssl) \
        $(or $(call pkg,--libs,libssl),-lssl) $(or $(call pkg,--libs,libcrypto),-lcrypto) -lm \
        $(if $(DARWIN),-framework Metal -framework Foundation -framework CoreGraphics)
CMOCKA = $(or $(call pkg,--libs,cmocka),-lcmocka)

AVX512 := -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mavx512vbmi -mgfni -mf16c -mfma
isa = $(if $(filter %_avx2.c,$(1)),-mavx2 -mfma -mf16c)$(if $(filter %_avx512.c,$(1)),$(AVX512))$(if \
      $(filter %_amx.c,$(1)),$(AVX512) -mamx-tile -mamx-int8 -mamx-bf16)$(if \
      $(filter %_dotprod.c,$(1)),-march=armv8.2-a+dotprod)$(if $(filter %_i8mm.c,$(1)),-march=armv8.2-a+dotprod+i8mm)

# The release, and the commit when this is a checkout: "0.1.0 (6a105dd)".
RELEASE := $(or $(shell cat VERSION 2>/dev/null),0.1.0)
COMMIT  := $(shell git rev-parse --short HEAD 2>/dev/null)
VERSION := $(RELEASE)$(if $(COMMIT), ($(COMMIT)))

# Evaluated once: pkg-config is not asked again for every file.
FLAGS := $(FLAGS)
CLI_FLAGS := $(CLI_FLAGS)
TEST_FLAGS := $(TEST_FLAGS)
LIBS := $(LIBS)
CMOCKA := $(CMOCKA)

ifeq ($(V),1)
Q :=
say = @:
else
Q := @
say = @printf '  %-5s %s\n' $(1) $(2)
endif

# --- for users ------------------------------------------------------------------------------------------

.PHONY: all run test check deps install help
all: $(if $(MAIN_SRC),ds4,$(B)/libds4.a)

# `set -m` gives the chat its own process group, so that Ctrl-C stops an answer and not make.
run:
	@CC='$(CC)' sh tools/deps.sh build
	@$(MAKE) all
	@$(if $(P),./ds4 -p "$$P",if [ -t 0 ]; then set -m; fi; ./ds4)
override P := $(value P)
export P

test:
	@CC='$(CC)' sh tools/deps.sh build test
	@$(MAKE) VARIANT= all build-tests
	@$(MAKE) VARIANT=asan build-asan-tests
	@$(MAKE) VARIANT= build-metalsim
	@sh tests/run.sh -j $(JOBS) $(call prog,$(PLAIN_TESTS),build) $(call prog,$(ASAN_TESTS),build/asan) \
		$(call only,$(SCRIPTS)) $(SIM_RUN)

check:
	@CC='$(CC)' sh tools/deps.sh build test
	@$(MAKE) VARIANT= all build-tests build-metalsim
	@sh tests/run.sh -j $(JOBS) $(call prog,$(PLAIN_TESTS),build) $(call only,$(SCRIPTS)) $(SIM_RUN)

deps:
	@CC='$(CC)' sh tools/deps.sh build test

install: all
	install -d '$(DESTDIR)$(PREFIX)/bin' '$(DESTDIR)$(PREFIX)/share/ds4'
	install -m 755 ds4 '$(DESTDIR)$(PREFIX)/bin/ds4'
	install -m 644 $(MODEL) '$(DESTDIR)$(PREFIX)/share/ds4/'

help:
	@echo 'make                  build ./ds4'
	@echo 'make run [P="text"]   install what is missing, build, chat (or answer the text once)'
	@echo 'make test [T=word]    install what is missing, build, run all tests (or those whose path has the word)'
	@echo 'make check [T=word]   the same without the sanitizer part'
	@echo 'make asan | tsan      the tests that are run under address+undefined or thread sanitizers'
	@echo 'make test-load         ds4 serve under 256 clients and 2,000 idle connections for a minute'
	@echo 'make test-clients      ds4 serve and real clients from npm (CLIENTS="sdk codex claude opencode pi")'
	@echo 'make fuzz             every fuzz target for FUZZ_SECONDS=60 (needs clang)'
	@echo 'make lint             layers, header guards, banned calls, sizes'
	@echo 'make warnings         compile with gcc and with clang, warnings as errors'
	@echo 'make format           clang-format over the files changed since the last commit'
	@echo 'make deps             install the packages that building and testing need'
	@echo 'make test-metal       the Metal backend: on the GPU of a Mac, elsewhere on the simulator'
	@echo 'make install          to PREFIX=/usr/local (DESTDIR works too)'
	@echo 'make clean            remove build/ and ./ds4'
	@echo
	@echo 'V=1 shows the commands; CC, CFLAGS, CPPFLAGS, LDFLAGS are honoured; WERROR=1 makes warnings errors.'

# --- for developers -------------------------------------------------------------------------------------

.PHONY: asan tsan fuzz lint warnings format clean build-tests build-asan-tests build-tsan-tests build-fuzz
asan:
	@$(MAKE) VARIANT=asan build-asan-tests
	@sh tests/run.sh -j $(JOBS) $(call prog,$(ASAN_TESTS),build/asan)

tsan:
	@$(MAKE) VARIANT=tsan build-tsan-tests
	@sh tests/run.sh -j $(JOBS) $(call prog,$(TSAN_TESTS),build/tsan)

FUZZ_SECONDS ?= 60
fuzz:
	@$(MAKE) VARIANT=fuzz build-fuzz
	@for p in $(call prog,$(call only,$(FUZZ_SRC)),build/fuzz); do \
		name=`basename $$p _fuzz`; new=build/fuzz/corpus/$$name; seeds=tests/fuzz/corpus/$$name; \
		mkdir -p $$new; [ -d $$seeds ] || seeds=; \
		echo "== $$name, $(FUZZ_SECONDS) s"; \
		$$p -max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=4096 -timeout=20 -print_final_stats=1 \
			-artifact_prefix=build/fuzz/$$name- $$new $$seeds || exit 1; \
	done

lint:
	@sh tools/lint.sh

WARN_SRC := $(SRC) $(TEST_SRC) $(HELP_SRC) $(FUZZ_SRC)
warnings:
	@for c in gcc clang; do \
		command -v $$c >/dev/null || { echo "$$c: not here, skipped"; continue; }; \
		echo "$$c:"; $(MAKE) -k CC=$$c WERROR=1 $(patsubst %.c,check/%,$(WARN_SRC)) || exit 1; \
	done

format:
	@git diff --name-only --diff-filter=d HEAD -- '*.c' '*.h' | xargs -r clang-format -i --style=file

clean:
	rm -rf build ds4

build-tests:      $(call prog,$(PLAIN_TESTS),$(B)) ; @:
build-asan-tests: $(call prog,$(ASAN_TESTS),$(B)) ; @:
build-tsan-tests: $(call prog,$(TSAN_TESTS),$(B)) ; @:
build-fuzz:       $(call prog,$(call only,$(FUZZ_SRC)),$(B)) ; @:

# Longer tests of the server: many clients, and the real ones (from npm).
.PHONY: test-load test-clients
test-load: all $(B)/tests/load/load $(B)/tests/api/clients_test
	@sh tests/load/run.sh $(LOAD)
	@DS4_LONG=1 $(B)/tests/api/clients_test

test-clients: all
	@bash tests/clients/run.sh $(CLIENTS)

# --- how ------------------------------------------------------------------------------------------------

# These files change only when their text does; what depends on them is then built again.
stamp = @mkdir -p $(@D); printf '%s\n' '$(subst ','\'',$(1))' | cmp -s - $@ || \
	printf '%s\n' '$(subst ','\'',$(1))' > $@
$(B)/flags:      FORCE ; $(call stamp,$(CC) $(FLAGS) $(LDFLAGS))
$(B)/flags.cli:  FORCE ; $(call stamp,$(CLI_FLAGS))
$(B)/sources:    FORCE ; $(call stamp,$(LIB_SRC) $(HELP_SRC))
.PHONY: FORCE
FORCE:

# Says once which package is missing, before the compiler says it sixty times.
$(B)/deps.ok:
	@mkdir -p $(@D)
	@CC='$(CC)' sh tools/deps.sh --check build
	@touch $@

EXTRA = $(if $(filter src/cli/%,$<),$(CLI_FLAGS))$(if $(filter tests/%,$<),$(TEST_FLAGS)) $(call isa,$<)

$(B)/obj/%.o: %.c $(B)/flags | $(B)/deps.ok
	$(call say,CC,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) $(FLAGS) $(EXTRA) -MMD -MP -c -o $@ $<

$(call obj,$(filter src/cli/%,$(SRC))): $(B)/flags.cli

$(B)/libds4.a: $(call obj,$(LIB_SRC)) $(METAL_O) $(B)/sources
	$(call say,AR,$@)
	@rm -f $@
	$(Q)$(AR) rcs $@ $(call obj,$(LIB_SRC)) $(METAL_O)

$(B)/libsupport.a: $(call obj,$(HELP_SRC)) $(B)/sources
	@rm -f $@
	$(Q)$(AR) rcs $@ $(call obj,$(HELP_SRC))

ds4: $(B)/ds4
	@cp -f $< $@.new && mv -f $@.new $@

$(B)/ds4: $(call obj,$(MAIN_SRC)) $(B)/libds4.a
	$(call say,LD,$@)
	$(Q)$(CC) $(FLAGS) $(LDFLAGS) -o $@ $^ $(LIBS)

$(B)/%_test: $(B)/obj/%_test.o $(if $(HELP_SRC),$(B)/libsupport.a) $(B)/libds4.a
	$(call say,LD,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(FLAGS) $(LDFLAGS) -o $@ $^ $(CMOCKA) $(LIBS)

$(B)/tests/load/load: $(B)/obj/tests/load/load.o $(B)/libds4.a
	$(call say,LD,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(FLAGS) $(LDFLAGS) -o $@ $^ $(LIBS)

$(B)/%_fuzz: $(B)/obj/%_fuzz.o $(B)/libds4.a
	$(call say,LD,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(FLAGS) $(LDFLAGS) -fsanitize=fuzzer -o $@ $^ $(LIBS)

check/%: %.c FORCE
	$(Q)$(CC) $(FLAGS) $(EXTRA) -fsyntax-only $<

# --- CUDA -----------------------------------------------------------------------------------------------
# libds4_cuda.so stands beside ds4, which loads it when a device answers.  `make cuda` builds it.  With everything else it is
# built with CUDA=1, and by default where nvcc and a device are: six architectures take six minutes of one core, which a
# machine that only has the toolkit need not spend.  CUDA_ARCH lists compute capabilities ("native": this machine's); the last
# one is kept as PTX too, for later devices.  90a is Hopper with its own product instruction.

CUDA_HOME ?= /usr/local/cuda
NVCC      ?= $(or $(shell command -v nvcc 2>/dev/null),$(CUDA_HOME)/bin/nvcc)
CUDA      ?= $(if $(and $(wildcard $(NVCC)),$(wildcard /dev/nvidiactl)),1,0)
CUDA_ARCH ?= 80 86 89 90a 100 120
CUDA_SRC  := $(sort $(wildcard src/backend/cuda/*.cu))
CUDA_PTX   = $(filter-out %a,$(lastword $(CUDA_ARCH)))
CUDA_CODE  = $(if $(filter native,$(CUDA_ARCH)),-arch=native,$(foreach a,$(CUDA_ARCH),-gencode arch=compute_$(a),code=sm_$(a)) \
             $(foreach a,$(CUDA_PTX),-gencode arch=compute_$(a),code=compute_$(a))) \
             $(if $(filter 90a,$(CUDA_ARCH)),-DDS4_CUDA_WGMMA)

.PHONY: cuda test-cuda
cuda: libds4_cuda.so
ifeq ($(CUDA),1)
all: libds4_cuda.so
endif

libds4_cuda.so: $(patsubst %.cu,build/obj/%.cu.o,$(CUDA_SRC))
	$(call say,LD,$@)
	$(Q)$(NVCC) -shared -cudart static -o $@.new $^ && mv -f $@.new $@

build/obj/%.cu.o: %.cu $(wildcard src/backend/cuda/*.cuh src/backend/*.h src/backend/cuda/*.h)
	$(call say,NVCC,$<)
	@mkdir -p $(@D)
	$(Q)$(NVCC) -std=c++20 -O3 $(CUDA_CODE) -Isrc -Xcompiler -fPIC -c -o $@ $<

# On a machine with a GPU: parity with ref, golden logits, speed.  PARTS: parity nano sanitize speed full.
test-cuda:
	@sh tests/device/run.sh $(or $(PARTS),parity nano)

# --- Metal ----------------------------------------------------------------------------------------------

# On macOS these build the backend into the library; `make test-metal` runs it on the device and prints a report.  On Linux
# they do nothing, and tests/metalsim/rules.mk builds the same files against the simulator.

$(B)/obj/%.o: %.m $(METAL_SRC) $(wildcard src/backend/*.h src/base/*.h) $(B)/flags | $(B)/deps.ok
	$(call say,OBJC,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) $(FLAGS) -fno-objc-arc -c -o $@ $<

$(B)/obj/metal_source.c: $(METAL_SRC) tools/embed_metal.sh
	@mkdir -p $(@D)
	$(Q)sh tools/embed_metal.sh src/backend/metal/all.metal > $@

$(B)/obj/metal_source.o: $(B)/obj/metal_source.c
	$(Q)$(CC) -c -o $@ $<

$(B)/metal_check: $(B)/obj/tests/device/metal_check.o $(B)/libsupport.a $(B)/libds4.a
	$(Q)$(CC) $(FLAGS) $(LDFLAGS) -o $@ $^ $(CMOCKA) $(LIBS)

.PHONY: test-metal
ifneq ($(DARWIN),)
test-metal:
	@CC='$(CC)' sh tools/deps.sh build test
	@$(MAKE) all build/metal_check build/tests/parity/ops_test build/tests/parity/history_test
	@sh tests/device/metal.sh
else
test-metal:
	@echo 'This is not a Mac: the Metal backend runs on the simulator of tests/metalsim here.'
	@$(MAKE) test-metalsim
endif

include tests/metalsim/rules.mk

.PRECIOUS: $(B)/obj/%.o
-include $(patsubst %.o,%.d,$(call obj,$(SRC) $(TEST_SRC) $(HELP_SRC) $(FUZZ_SRC)))
