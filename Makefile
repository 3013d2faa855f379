# qsweep: one Makefile, not recursive. `make help` is its index.
# Knobs: BUILD=build  V=1 (show commands)  SAN=1 (ASan + UBSan)  CUDA=0|1 (unset: use nvcc when found)
.DEFAULT_GOAL := all
MAKEFLAGS += -rR
.SUFFIXES:
.SECONDARY:
.DELETE_ON_ERROR:

BUILD ?= build
CC := gcc
Q := $(if $(V),,@)

comma := ,
warnings := -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion -Wstrict-prototypes -Wmissing-prototypes -Werror
# No fast-math: it deletes the NaN checks. No contraction: results must not depend on the instruction set.
cflags := -std=c11 -O2 -g -fopenmp -ffp-contract=off -D_GNU_SOURCE -Ipipeline -I. $(warnings) $(CFLAGS)
san := $(if $(SAN),-fsanitize=address$(comma)undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
hdf5_cflags := $(shell pkg-config --cflags hdf5 2>/dev/null)
hdf5_libs := $(shell pkg-config --libs hdf5 2>/dev/null)
libs := $(hdf5_libs) -lzstd -lcsv -ljansson -lpcre2-8 -lutf8proc -lxxhash -ldnnl -lm $(LDLIBS)

sources := $(wildcard pipeline/*/*.c pipeline/backend/cpu/*.c)
objects := $(sources:%.c=$(BUILD)/%.o)
library := $(BUILD)/libqsweep.a
smollm2 := datasets/models/smollm2-135m-instruct-q4_1.gguf
stages := $(patsubst stages/%.c,%,$(filter-out stages/qsweep.c stages/common.c,$(wildcard stages/*.c)))
programs := $(stages:%=$(BUILD)/bin/qsweep-%) $(if $(wildcard stages/qsweep.c),$(BUILD)/bin/qsweep)
test_programs := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/test_*.c))
tool_programs := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/tool_*.c))

.PHONY: all
all: $(programs)

# Machine kernels carry their instruction set in the file name; they are chosen at run time.
$(BUILD)/%_avx2.o: isa := -mavx2 -mfma -mf16c
# Under SAN=1 they go without UBSan and with calls for ASan's checks: inlined, the compiler takes minutes on them.
$(BUILD)/%_avx2.o $(BUILD)/%_avx512.o: san_off := $(if $(SAN),-fno-sanitize=undefined --param asan-instrumentation-with-call-threshold=0)
$(BUILD)/%_avx512.o: isa := -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx2 -mfma -mf16c

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(if $(V),,@echo "  CC $<")
	$(Q)$(CC) $(cflags) $(san) $(san_off) $(isa) $(if $(findstring pipeline/artifact/,$<),$(hdf5_cflags)) -MMD -MP -c $< -o $@

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

# One test program: make unit-tokenizer
.PHONY: unit-%
unit-%: $(BUILD)/tests/test_%
	$(Q)$<

# ---- the two commands of the README ----
.PHONY: help demo test
help:
	@sed -n 's/^#? //p' Makefile

#? make demo                      set up, fetch a real model, sweep 8 points, print the table
demo:
	@scripts/install-deps
	@scripts/fetch-model smollm2
	@$(MAKE) --no-print-directory all
	@$(MAKE) --no-print-directory sweep MODEL=$(smollm2) GRID=datasets/grids/demo.csv OUT=results/demo GATE=report CALIBRATE="--samples 100" EVALUATE="--windows 10"

#? make test [T="NAME ..."]       set up, build, run every test; ends with "N passed, N failed, N skipped"
test:
	@scripts/install-deps --test
	@$(MAKE) --no-print-directory all tests tools fuzz-programs
	@$(MAKE) --no-print-directory SAN=1 BUILD=$(BUILD)/san tests
	@scripts/run-tests $(BUILD) $(T)

.PHONY: tests tools
tests: $(test_programs)
tools: $(tool_programs)

# ---- sweeps ----
#? make sweep MODEL= GRID= OUT=   calibrate, quantize, evaluate, report; resumes; -j and -n work
#?      [TEXT=] [CALIB_TEXT=] [PRODUCTION=] [BUDGETS=] [CALIBRATE="options"] [QUANTIZE=] [EVALUATE=] [REPORT=]
TEXT ?= datasets/handbook/evaluation
CALIB_TEXT ?= datasets/handbook/calibration
PRODUCTION ?= datasets/handbook/production
BUDGETS ?= datasets/budgets.csv
bin := $(BUILD)/bin
# One sweep per directory at a time: a second one waits. Each stage skips what is finished and current by
# content digest, so running them again is the resume.
lock = flock $(OUT)/.lock
files = $(bin)/qsweep-plan --grid $(GRID) --out $(OUT) --files
# What a failed gate does to make: fail (exit status 2) or report (the table says it, make succeeds).
GATE ?= fail
.PHONY: sweep sweep-calibrate sweep-quantize sweep-evaluate sweep-report
sweep: sweep-report
sweep-report: sweep-evaluate
	$(lock) $(bin)/qsweep-report --budgets $(BUDGETS) --out $(OUT) $(REPORT) $$($(files) eval) || \
	  { rc=$$?; [ $$rc = 3 ] && [ "$(GATE)" = report ] || exit $$rc; }
sweep-evaluate: sweep-quantize
	$(lock) $(bin)/qsweep-evaluate --model $(MODEL) --text $(TEXT) --out $(OUT) $(EVALUATE) $$($(files) quant | sed 's/^/--quant /')
sweep-quantize: sweep-calibrate
	$(lock) $(bin)/qsweep-quantize --model $(MODEL) --calib $(OUT)/calib.h5 --grid $(GRID) --out $(OUT) $(QUANTIZE)
sweep-calibrate: $(programs)
	@: $(if $(and $(MODEL),$(GRID),$(OUT)),,$(error make sweep needs MODEL=, GRID= and OUT=))
	@mkdir -p $(OUT)
	$(lock) $(bin)/qsweep-calibrate --model $(MODEL) --text $(CALIB_TEXT) --production $(PRODUCTION) --out $(OUT)/calib.h5 $(CALIBRATE)

# ---- more checks ----
#? make fuzz [FUZZ_SECONDS=60]     libFuzzer targets of every parser under ASan and UBSan (clang)
FUZZ_SECONDS ?= 60
fuzz_programs := $(patsubst tests/fuzz/%.c,$(BUILD)/fuzz/%,$(wildcard tests/fuzz/fuzz_*.c))
# The parsers and what they stand on; machine kernels and HDF5 stay out.
fuzz_sources := $(filter-out %_avx2.c %_avx512.c,$(wildcard pipeline/base/*.c pipeline/data/*.c pipeline/model/*.c))
fuzz_objects := $(fuzz_sources:%.c=$(BUILD)/fuzz-objects/%.o)
.PHONY: fuzz fuzz-programs
fuzz-programs: $(fuzz_programs)
fuzz: fuzz-programs
	@scripts/run-fuzz $(BUILD) $(FUZZ_SECONDS)

$(BUILD)/fuzz-objects/%.o: %.c
	@mkdir -p $(@D)
	$(if $(V),,@echo "  FUZZ-CC $<")
	$(Q)clang -std=c11 -O1 -g -D_GNU_SOURCE -Ipipeline -I. -Wno-unknown-pragmas -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined -MMD -MP -c $< -o $@
# An archive, so that a target links only what it calls.
$(BUILD)/fuzz-objects/libqsweep.a: $(fuzz_objects)
	$(Q)rm -f $@ && ar rcs $@ $^
$(BUILD)/fuzz/%: $(BUILD)/fuzz-objects/tests/fuzz/%.o $(BUILD)/fuzz-objects/libqsweep.a
	@mkdir -p $(@D)
	$(Q)clang -fsanitize=fuzzer,address,undefined -Wl,--gc-sections $^ -o $@ -lcsv -ljansson -lpcre2-8 -lutf8proc -lxxhash -lm -lgomp

#? make bench                      kernels and ops against the reference and the machine's peaks
bench_programs := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/bench_*.c))
.PHONY: bench
bench: $(bench_programs)
	$(Q)for program in $^; do $$program || exit; done
$(bench_programs) $(tool_programs): $(BUILD)/tests/%: $(BUILD)/tests/%.o $(library)
	@mkdir -p $(@D)
	$(Q)$(CC) -fopenmp $(san) $^ -o $@ $(libs)

#? make docs                       regenerate docs/artifacts.md, docs/columns.md (no diff when current)
.PHONY: docs clean plugin
docs: all
	$(Q)$(bin)/qsweep-report --schema >docs/artifacts.md
	$(Q)$(bin)/qsweep-report --list >docs/columns.md

#? make plugin                     HDF5 filter plugin for h5dump and h5repack (HDF5_PLUGIN_PATH=build/plugin)
plugin: $(BUILD)/plugin/libqsweep_zstd.so
$(BUILD)/plugin/libqsweep_zstd.so: pipeline/artifact/zstd_filter.c pipeline/artifact/zstd_plugin.c
	@mkdir -p $(@D)
	$(Q)$(CC) $(cflags) $(hdf5_cflags) -DQS_H5_PLUGIN -fPIC -shared $^ -o $@ $(hdf5_libs) -lzstd

clean:
	rm -rf $(BUILD)

-include $(objects:.o=.d) $(fuzz_objects:.o=.d) $(wildcard $(BUILD)/stages/*.d $(BUILD)/tests/*.d)
