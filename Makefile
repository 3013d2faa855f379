# qsweep: one Makefile, not recursive. `make help` is its index.
# Knobs: BUILD=build  V=1 (show commands)  SAN=1 (ASan + UBSan)  CUDA=0|1 (unset: use nvcc when found)
.DEFAULT_GOAL := all
MAKEFLAGS += -rR
.SUFFIXES:
.DELETE_ON_ERROR:

BUILD ?= build
CC := gcc
Q := $(if $(V),,@)

comma := ,
warnings := -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion -Wstrict-prototypes -Wmissing-prototypes -Werror
# No fast-math: it deletes the NaN checks. No contraction: results must not depend on the instruction set.
cflags := -std=c11 -O2 -g -fopenmp -ffp-contract=off -D_GNU_SOURCE -Ipipeline -I. $(warnings) $(CFLAGS)
san := $(if $(SAN),-fsanitize=address$(comma)undefined -fno-omit-frame-pointer)
hdf5_cflags := $(shell pkg-config --cflags hdf5 2>/dev/null)
hdf5_libs := $(shell pkg-config --libs hdf5 2>/dev/null)
libs := $(hdf5_libs) -lzstd -lcsv -ljansson -lpcre2-8 -lutf8proc -lxxhash -ldnnl -lm $(LDLIBS)

sources := $(wildcard pipeline/*/*.c pipeline/backend/cpu/*.c)
objects := $(sources:%.c=$(BUILD)/%.o)
library := $(BUILD)/libqsweep.a
stages := $(patsubst stages/%.c,%,$(filter-out stages/qsweep.c stages/common.c,$(wildcard stages/*.c)))
programs := $(stages:%=$(BUILD)/bin/qsweep-%) $(if $(wildcard stages/qsweep.c),$(BUILD)/bin/qsweep)
test_programs := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/test_*.c))

.PHONY: all
all: $(programs)

# Machine kernels carry their instruction set in the file name; they are chosen at run time.
$(BUILD)/%_avx2.o: isa := -mavx2 -mfma -mf16c
$(BUILD)/%_avx512.o: isa := -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx2 -mfma -mf16c

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(if $(V),,@echo "  CC $<")
	$(Q)$(CC) $(cflags) $(san) $(isa) $(if $(findstring pipeline/artifact/,$<),$(hdf5_cflags)) -MMD -MP -c $< -o $@

$(library): $(objects)
	$(if $(V),,@echo "  AR $@")
	$(Q)rm -f $@ && ar rcs $@ $^

$(BUILD)/bin/qsweep-%: $(BUILD)/stages/%.o $(if $(wildcard stages/common.c),$(BUILD)/stages/common.o) $(library)
	@mkdir -p $(@D)
	$(if $(V),,@echo "  LD $@")
	$(Q)$(CC) -fopenmp $(san) $^ -o $@ $(libs)

$(BUILD)/bin/qsweep: $(BUILD)/stages/qsweep.o $(library)
	@mkdir -p $(@D)
	$(Q)$(CC) -fopenmp $(san) $^ -o $@ $(libs)

$(BUILD)/tests/test_%: $(BUILD)/tests/test_%.o $(library)
	@mkdir -p $(@D)
	$(if $(V),,@echo "  LD $@")
	$(Q)$(CC) -fopenmp $(san) $^ -o $@ $(libs) -lcmocka

# One test program: make unit-dtype
.PHONY: unit-%
unit-%: $(BUILD)/tests/test_%
	$(Q)$<

-include $(objects:.o=.d) $(wildcard $(BUILD)/stages/*.d $(BUILD)/tests/*.d)
