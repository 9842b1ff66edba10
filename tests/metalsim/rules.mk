# rules.mk - builds the Metal simulator and what runs on it.  Included by the Makefile; does nothing where a tool that it
# needs is missing (need.sh says which), and nothing on macOS, where the real thing is built.

MSL_CLANG ?= clang
SIM_NEEDS := $(shell MSL_CLANG='$(MSL_CLANG)' sh tests/metalsim/need.sh)
SIM_B     := build/metalsim
SIM_LIBS  := -lobjc -lm -lpthread -ldl
OBJC_SIM  := $(MSL_CLANG) -x objective-c -std=gnu11 -fobjc-runtime=gcc -fno-objc-arc -fblocks \
             -fconstant-string-class=NSConstantString -O1 -g -Wall -Wextra -Wno-objc-root-class -Wno-deprecated-objc-isa-usage \
             -isystem $(shell gcc -print-file-name=include 2>/dev/null) -Itests/metalsim/host/include -Isrc -Itests

SIM_RT    := $(patsubst tests/metalsim/%.c,$(SIM_B)/%.o,$(sort $(wildcard tests/metalsim/rt/*.c)))
SIM_HOST  := $(SIM_RT) $(patsubst tests/metalsim/%.m,$(SIM_B)/%.o,$(sort $(wildcard tests/metalsim/host/*.m)))
SIM_FRONT := $(wildcard tests/metalsim/front/* tests/metalsim/include/*.h tests/metalsim/include/pp/*)
SIM_TOY   := $(foreach s,good bad,$(foreach m,fast check,$(SIM_B)/$(s).$(m).so))


# The backend itself, against the fake headers.  Linked in front of the library, it takes the place of metal_none.c.
METAL_OBJ := $(patsubst %.m,$(SIM_B)/%.o,$(sort $(wildcard src/backend/metal/*.m))) $(SIM_B)/metal_source.o
ON_METAL  := check check_history model	# tests of the backend under the simulator

ifeq ($(SIM_NEEDS),)
SIM_TESTS := $(call only,$(foreach t,sim host check check_history model,$(SIM_B)/$(t)_test))
SIM_RUN   := $(SIM_TESTS) $(call only,$(sort $(wildcard tests/metalsim/*_test.sh)))
else
SIM_TESTS :=
SIM_RUN   := $(call only,tests/metalsim/skipped.sh)
endif

.PHONY: build-metalsim test-metalsim test-mutation
.SECONDARY: $(METAL_OBJ) $(SIM_HOST)
build-metalsim: $(SIM_TESTS) ; @:

test-metalsim:
	@$(MAKE) build-metalsim
	@sh tests/run.sh -j $(JOBS) $(SIM_RUN)

# Deletes each barrier of the shaders and of the command encoder in turn; the tests must notice every one.  Minutes.
test-mutation:
	@$(MAKE) $(SIM_B)/check_test $(SIM_B)/check_history_test
	@sh tests/metalsim/mutation.sh

$(SIM_B)/rt/%.o: tests/metalsim/rt/%.c $(wildcard tests/metalsim/rt/*.h)
	$(call say,CC,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) -std=gnu11 -O2 -g $(WARN) -c -o $@ $<

$(SIM_B)/host/%.o: tests/metalsim/host/%.m $(wildcard tests/metalsim/host/*.h tests/metalsim/host/include/*/*.h tests/metalsim/rt/sim.h)
	$(call say,OBJC,$<)
	@mkdir -p $(@D)
	$(Q)$(OBJC_SIM) -c -o $@ $<

$(SIM_B)/%.fast.so: tests/metalsim/shaders/%.metal $(SIM_FRONT)
	$(call say,MSL,$<)
	@mkdir -p $(@D)
	$(Q)MSL_CLANG='$(MSL_CLANG)' tests/metalsim/front/mslcc -m fast -o $@ $<

$(SIM_B)/%.check.so: tests/metalsim/shaders/%.metal $(SIM_FRONT)
	$(call say,MSL,$<)
	@mkdir -p $(@D)
	$(Q)MSL_CLANG='$(MSL_CLANG)' tests/metalsim/front/mslcc -m check -o $@ $<

$(SIM_B)/sim_test: tests/metalsim/sim_test.c $(SIM_RT) | $(SIM_TOY)
	$(call say,LD,$@)
	$(Q)$(CC) -std=gnu11 -O1 -g $(WARN) $(TEST_FLAGS) -rdynamic -o $@ $^ $(CMOCKA) -lm -lpthread -ldl

$(SIM_B)/host_test: tests/metalsim/host_test.m $(SIM_HOST) | $(SIM_TOY)
	$(call say,LD,$@)
	$(Q)$(OBJC_SIM) $(TEST_FLAGS) -c -o $@.o $<
	$(Q)$(MSL_CLANG) -rdynamic -o $@ $@.o $(SIM_HOST) $(CMOCKA) $(SIM_LIBS)

$(SIM_B)/src/%.o: src/%.m $(wildcard src/backend/*.h src/backend/metal/*.h tests/metalsim/host/include/*/*.h)
	$(call say,OBJC,$<)
	@mkdir -p $(@D)
	$(Q)$(OBJC_SIM) -Wshadow -Wstrict-prototypes -Wmissing-prototypes $(if $(filter 1,$(WERROR)),-Werror) -c -o $@ $<

$(SIM_B)/all.metal: $(METAL_SRC) tools/embed_metal.sh
	@mkdir -p $(@D)
	$(Q)sh tools/embed_metal.sh -t src/backend/metal/all.metal > $@

$(SIM_B)/metal_source.c: $(METAL_SRC) tools/embed_metal.sh
	@mkdir -p $(@D)
	$(Q)sh tools/embed_metal.sh src/backend/metal/all.metal > $@

$(SIM_B)/metal_source.o: $(SIM_B)/metal_source.c
	$(Q)$(CC) -c -o $@ $<

$(SIM_B)/%_test.o: tests/metalsim/%_test.c $(wildcard tests/parity/*.c tests/support/*.h tests/metalsim/*/*.h src/*/*.h)
	$(call say,CC,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) $(FLAGS) $(TEST_FLAGS) -c -o $@ $<

$(foreach t,$(ON_METAL),$(SIM_B)/$(t)_test): $(SIM_B)/%_test: $(SIM_B)/%_test.o $(METAL_OBJ) $(SIM_HOST) build/libsupport.a build/libds4.a
	$(call say,LD,$@)
	$(Q)$(MSL_CLANG) -rdynamic -o $@ $^ $(CMOCKA) $(LIBS) $(SIM_LIBS)

$(SIM_B)/metal_check: build/obj/tests/device/metal_check.o $(METAL_OBJ) $(SIM_HOST) build/libsupport.a build/libds4.a
	$(call say,LD,$@)
	$(Q)$(MSL_CLANG) -rdynamic -o $@ $^ $(CMOCKA) $(LIBS) $(SIM_LIBS)

# The tests of tests/parity through the simulator, on request: slow.
$(SIM_B)/parity/%_test: build/obj/tests/parity/%_test.o $(METAL_OBJ) $(SIM_HOST) build/libsupport.a build/libds4.a
	$(call say,LD,$@)
	@mkdir -p $(@D)
	$(Q)$(MSL_CLANG) -rdynamic -o $@ $^ $(CMOCKA) $(LIBS) $(SIM_LIBS)
