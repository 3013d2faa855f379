# qsweep: one Makefile, not recursive. `make help` is its index.
# Knobs: BUILD=build  V=1 (show commands)  SAN=1 (ASan + UBSan)
#   SHARE=build     where objects that CUDA= leaves alone lie, if in another build with the same SAN=
#   CUDA=0|1|shim   without CUDA, with it, or with its kernels running on the CPU (for tests; see
#                   pipeline/backend/cuda/simt.h). Unset: 1 where nvcc is found, else 0; with SAN=1: shim.
#   CUDA_ARCHS="80 86 89 90 120"   architectures to compile for; the first one also as PTX, for newer devices
.DEFAULT_GOAL := all
MAKEFLAGS += -rR
.SUFFIXES:
.SECONDARY:
.DELETE_ON_ERROR:

BUILD ?= build
SHARE ?= $(BUILD)
CC := gcc
CXX := g++
Q := $(if $(V),,@)

comma := ,
warnings := -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion -Wstrict-prototypes -Wmissing-prototypes \
  -Werror $(if $(SAN),-Wno-format-truncation -Wno-maybe-uninitialized) # they mislead where less is inlined
# A sanitizer's report needs lines; where variables lie costs as much as all the rest on large kernels.
debug := $(if $(SAN),-g1,-g)
# Under sanitizers, gcc takes half the time for one level less.
optimise := $(if $(SAN),-O1,-O2)
# No fast-math: it deletes the NaN checks. No contraction: results must not depend on the instruction set.
cflags := -std=c11 $(optimise) $(debug) -fopenmp -ffp-contract=off -D_GNU_SOURCE -Ipipeline -I. $(warnings) $(CFLAGS)
san := $(if $(SAN),-fsanitize=address$(comma)undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
hdf5_cflags := $(shell pkg-config --cflags hdf5 2>/dev/null)
hdf5_libs := $(shell pkg-config --libs hdf5 2>/dev/null)
# Only what stands nearest to HDF5 sees it.
hdf5_for = $(if $(findstring pipeline/artifact/,$1)$(findstring tests/test_chunks.c,$1),$(hdf5_cflags))

# ---- CUDA: found, asked for, or emulated ----
nvcc := $(firstword $(shell command -v nvcc 2>/dev/null) $(wildcard /usr/local/cuda/bin/nvcc))
CUDA ?= $(if $(SAN),shim,$(if $(nvcc),1,0))
ifeq ($(filter 0 1 shim,$(CUDA)),)
$(error CUDA=$(CUDA) is none of 0, 1, shim)
endif
ifeq ($(CUDA),1)
ifeq ($(nvcc),)
$(error CUDA=1 needs nvcc, which is neither on PATH nor in /usr/local/cuda/bin: install the CUDA toolkit, or $\
  build with CUDA=0)
endif
ifneq ($(SAN),)
$(error SAN=1 cannot look into GPU code: use CUDA=shim or CUDA=0 with it)
endif
endif
CUDA_ARCHS ?= 80 86 89 90 120
CUDA_PTX ?= $(firstword $(CUDA_ARCHS))
cuda_arch_ptx := $(CUDA_PTX)
# Products of a warpgroup (wgmma.h) are code for 9.0 and no other, not even as PTX.
cuda_codes := $(patsubst 90,90a,$(CUDA_ARCHS))
cuda_text := $(cuda_codes:%=sm_%) compute_$(cuda_arch_ptx)
# The toolkit lies around its compiler; where a distribution has spread it, gcc finds it by itself.
cuda_home := $(patsubst %/bin/nvcc,%,$(realpath $(nvcc)))
cuda_include := $(addprefix -isystem ,$(wildcard $(cuda_home)/include))
cuda_libs := $(addprefix -L,$(wildcard $(cuda_home)/lib64 $(cuda_home)/targets/x86_64-linux/lib)) \
  -lcudart_static -ldl -lrt -lpthread
# No exceptions, no RTTI and no guarded statics: nothing needs libstdc++ then, and gcc links it all.
cxx_plain := -fno-exceptions -fno-rtti -fno-threadsafe-statics
empty :=
space := $(empty) $(empty)
nvccflags := -O3 -std=c++17 --threads 0 -Werror all-warnings -Ipipeline -I. \
  -Xcompiler -Wall$(comma)-Wextra$(comma)-fopenmp$(comma)$(subst $(space),$(comma),$(cxx_plain)) \
  $(foreach a,$(cuda_codes),-gencode arch=compute_$a$(comma)code=sm_$a) \
  -gencode arch=compute_$(cuda_arch_ptx)$(comma)code=compute_$(cuda_arch_ptx)
# The kernels' twin is for tests, on the machine that compiles it, where fmaf may be an instruction.
twin_isa := $(if $(filter shim,$(CUDA)),$(if $(shell grep -owm1 fma /proc/cpuinfo),-mavx2 -mfma))
# Pragmas of nvcc mean nothing here, and what a kernel leaves unset on purpose looks forgotten.
cxxflags := -std=c++17 $(optimise) $(debug) $(twin_isa) -fopenmp -ffp-contract=off -D_GNU_SOURCE \
  -Ipipeline -I. -Wall -Wextra -Werror -Wno-unknown-pragmas -Wno-maybe-uninitialized $(cxx_plain) $(CXXFLAGS)

libs := $(hdf5_libs) -lzstd -lcsv -ljansson -lpcre2-8 -lutf8proc -lxxhash -ldnnl -lm \
  $(if $(filter 1,$(CUDA)),$(cuda_libs),-ldl) $(LDLIBS)

cuda_dir := pipeline/backend/cuda
sources := $(wildcard pipeline/*/*.c pipeline/backend/cpu/*.c)
cuda_files := $(wildcard $(cuda_dir)/*.c*)
cuda_sources_1 := $(filter-out %.cpp,$(cuda_files))
cuda_sources_shim := $(filter-out %/runtime_cuda.c,$(cuda_files))
cuda_sources := $(cuda_sources_$(CUDA))
# The longest to compile first, so that none of them is left alone at the end.
slow_sources := $(filter %_avx2.c %_avx512.c,$(sources))
# What CUDA=, and only that, compiles differently.
own_sources := pipeline/backend/backend.c $(cuda_dir)/runtime_cuda.c
object_of = $(if $(filter %.c,$1),$(if $(filter $(own_sources),$1),$(BUILD),$(SHARE))/$(1:.c=.o),$(BUILD)/$1.o)
objects := $(foreach s,$(filter %.cu,$(cuda_sources)) $(slow_sources) $(filter-out $(slow_sources),$(sources)) \
  $(filter-out %.cu,$(cuda_sources)),$(call object_of,$s))
library := $(BUILD)/libqsweep.a
smollm2 := datasets/models/smollm2-135m-instruct-q4_1.gguf
# What several stages, or the front end, link beside the stage itself.
stage_parts := common children evaluate_lists evaluate_options recalibrate
stages := $(patsubst stages/%.c,%,$(filter-out $(patsubst %,stages/%.c,qsweep $(stage_parts)),$(wildcard stages/*.c)))
programs := $(stages:%=$(BUILD)/bin/qsweep-%) $(if $(wildcard stages/qsweep.c),$(BUILD)/bin/qsweep)
# The CUDA backend's tests need the backend, the twin's tests need the twin.
cuda_tests := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/test_cuda*.c))
simt_tests := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/test_simt*.c))
test_programs := $(filter-out $(if $(filter 0,$(CUDA)),$(cuda_tests)) $(if $(filter-out shim,$(CUDA)),$(simt_tests)),\
  $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/test_*.c)))
tool_programs := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/tool_*.c))

.PHONY: all
all: $(programs)

# Machine kernels carry their instruction set in the file name; they are chosen at run time. Under SAN=1 they
# go without UBSan and with calls for ASan's checks: inlined, the compiler takes minutes on them.
kernel_flags := $(if $(SAN),-fno-sanitize=undefined --param asan-instrumentation-with-call-threshold=0,-g1)
avx2 := -mavx2 -mfma -mf16c
avx512 := -mavx512f -mavx512bw -mavx512vl -mavx512dq $(avx2)
builds := $(sort $(BUILD) $(SHARE))
$(addsuffix /%_avx2.o,$(builds)): isa := $(avx2) $(kernel_flags)
$(addsuffix /%_avx512.o,$(builds)): isa := $(avx512) $(kernel_flags)

define compile_c =
$1/%.o: %.c
	@mkdir -p $$(@D)
	$$(if $$(V),,@echo "  CC $$@")
	$$(Q)$$(CC) $$(cflags) $$(san) $$(isa) $$(defines) \
	  $$(call hdf5_for,$$<) -MMD -MP -c $$< -o $$@
endef
$(foreach b,$(builds),$(eval $(call compile_c,$b)))

$(BUILD)/pipeline/backend/backend.o: defines := $(if $(filter-out 0,$(CUDA)),-DQS_WITH_CUDA)
$(BUILD)/$(cuda_dir)/runtime_cuda.o: defines := -DQS_CUDA_ARCHITECTURES='"$(cuda_text)"' $(cuda_include)
# These files change when what they hold does; objects and the library are made anew then.
keep_in_file = @mkdir -p $(@D); echo '$1' | cmp -s - $@ || echo '$1' >$@
$(BUILD)/cuda.config: FORCE
	$(call keep_in_file,$(CUDA)$(if $(filter 1,$(CUDA)), $(cuda_codes)))
$(BUILD)/library.list: FORCE
	$(call keep_in_file,$(objects))
.PHONY: FORCE
FORCE:
$(BUILD)/pipeline/backend/backend.o $(BUILD)/$(cuda_dir)/runtime_cuda.o: $(BUILD)/cuda.config

# nvcc makes names of anonymous namespaces global, objcopy takes that back.
$(BUILD)/%.cu.o: %.cu $(BUILD)/cuda.config
	@mkdir -p $(@D)
ifeq ($(CUDA),1)
	$(if $(V),,@echo "  NVCC $@")
	$(Q)$(nvcc) $(nvccflags) $(NVCCFLAGS) -MMD -MP -MF $(@:.o=.d) -c $< -o $@
	$(Q)objcopy -w --keep-global-symbol='qs_*' $@
else
	$(if $(V),,@echo "  SIMT $@")
	$(Q)$(CXX) $(cxxflags) $(san) -MMD -MP -x c++ -c $< -o $@
endif

$(BUILD)/%.cpp.o: %.cpp
	@mkdir -p $(@D)
	$(if $(V),,@echo "  CXX $@")
	$(Q)$(CXX) $(cxxflags) $(san) -MMD -MP -c $< -o $@

$(library): $(objects) $(BUILD)/library.list
	$(if $(V),,@echo "  AR $@")
	$(Q)rm -f $@ && ar rcs $@ $(objects)

define link
	@mkdir -p $(@D)
	$(if $(V),,@echo "  LD $@")
	$(Q)$(CC) -fopenmp $(san) $^ -o $@ $(libs)
endef

$(BUILD)/stages/libstages.a: $(stage_parts:%=$(BUILD)/stages/%.o)
	$(Q)rm -f $@ && ar rcs $@ $^

$(BUILD)/bin/qsweep-%: $(BUILD)/stages/%.o $(BUILD)/stages/libstages.a $(library)
	$(link)

$(BUILD)/bin/qsweep: $(BUILD)/stages/qsweep.o $(BUILD)/stages/libstages.a $(library)
	$(link)

$(BUILD)/tests/test_%: $(SHARE)/tests/test_%.o $(library)
	$(link) -lcmocka

# Programs that make and check what lies in datasets/.
dataset_programs := $(patsubst %.c,$(BUILD)/%,$(wildcard datasets/*.c datasets/*/*.c))
$(dataset_programs): $(BUILD)/%: $(BUILD)/%.o $(library)
	$(link)

# The twin is tried by kernels of its own.
$(simt_tests): $(BUILD)/tests/simt_cases.cu.o
$(BUILD)/tests/test_cuda_wgmma: $(BUILD)/tests/wgmma_cases.cu.o

# One test program: make unit-tokenizer
.PHONY: unit-%
unit-%: $(BUILD)/tests/test_%
	$(Q)$<

# ---- the two commands of the README ----
# They compile on every core, unless make was told how many.
every_core = --no-print-directory $(if $(findstring jobserver,$(MAKEFLAGS)),,-j$(shell nproc))
.PHONY: help demo demo-full demo-smollm2 test
help:
	@sed -n 's/^#? //p' Makefile

#? make demo                      set up, sweep 15 points of the project's own model, print the table
#? make demo-smollm2              fetch a real model, sweep 10 points of it, print the table
# Kernels for five kinds of GPU take minutes to compile: without a GPU here the demos leave them out, unless asked.
is_given = $(filter command% environment%,$(origin $1))
has_gpu = $(shell nvidia-smi -L 2>/dev/null)
demo_cuda = $(if $(or $(call is_given,CUDA),$(has_gpu)),$(CUDA),0)
demo_sweep = @$(MAKE) --no-print-directory CUDA=$(demo_cuda) sweep GATE=report
world := $(BUILD)/world
DEMO_OUT ?= results/demo
DEMO_ASKS ?= --items 20 --tasks ppl,kld,latency,memory,semantic,json
demo:
	@scripts/install-deps
	@$(MAKE) $(every_core) CUDA=$(demo_cuda) all $(world)/calibration.txt $(world)/evaluation.txt $(world)/production.txt
	$(demo_sweep) MODEL=datasets/reader GRID=datasets/grids/demo.csv OUT=$(DEMO_OUT) TEXT=$(world)/evaluation.txt \
	  CALIB_TEXT=$(world)/calibration.txt PRODUCTION=$(world)/production.txt CALIBRATE="--samples 128" \
	  EVALUATE="--windows 20 --qa datasets/world $(DEMO_ASKS)"
#? make demo-full                 the same with all tasks, 60 questions and the probe over k and headers
demo-full:
	@$(MAKE) --no-print-directory demo DEMO_OUT=results/demo-full \
	  DEMO_ASKS="--items 60 --probe 10 --tasks ppl,kld,latency,memory,semantic,json,entropy"
demo-smollm2:
	@scripts/install-deps
	@scripts/fetch-model smollm2
	@$(MAKE) $(every_core) CUDA=$(demo_cuda) all
	$(demo_sweep) MODEL=$(smollm2) GRID=datasets/grids/demo-smollm2.csv OUT=results/smollm2 \
	  CALIBRATE="--samples 100" EVALUATE="--windows 10"

# Texts of the world in the shape of prompts with answers: calibration sees the names of training, evaluation others.
world_examples = --format text --questions 4 --k-min 2 --k-max 8
$(world)/calibration.txt: world_options = --seed 101 --examples 400
$(world)/production.txt: world_options = --seed 102 --examples 200
$(world)/evaluation.txt: world_options = --seed 103 --examples 200 --held-out
$(world)/%.txt: $(BUILD)/datasets/world/generate
	@mkdir -p $(@D)
	$(Q)$< $(world_examples) $(world_options) >$@

#? make test [T="NAME ..."]       set up, build, run every test; ends with "N passed, N failed, N skipped"
# Where no GPU can run them it compiles CUDA kernels for the newest architecture, and as PTX of the oldest, since
# nvcc would take a third of all the time; `make all` compiles them for every one.
test_archs = $(if $(or $(call is_given,CUDA_ARCHS),$(has_gpu)),$(CUDA_ARCHS),$(lastword $(CUDA_ARCHS)))
test:
	@scripts/install-deps --test
	@$(MAKE) $(every_core) CUDA_ARCHS="$(test_archs)" CUDA_PTX=$(CUDA_PTX) test-builds
	@scripts/run-tests $(BUILD) $(T)

# What users get, with all its tests; the tests under sanitizers; the tests of the CUDA kernels with these on
# the CPU, in what otherwise is the first build.
.PHONY: test-builds test-build-san test-build-shim
test-builds: test-build-san test-build-shim
test-build-san:
	@$(MAKE) --no-print-directory CUDA=shim SAN=1 BUILD=$(BUILD)/san tests
test-build-shim: all tests tools fuzz-programs
	@$(MAKE) --no-print-directory CUDA=shim BUILD=$(BUILD)/shim SHARE=$(BUILD) cuda-tests

.PHONY: tests cuda-tests tools
tests: $(test_programs)
cuda-tests: $(cuda_tests) $(simt_tests)
tools: $(tool_programs) $(dataset_programs)

# ---- sweeps ----
#? make sweep MODEL= GRID= OUT=   calibrate, quantize, evaluate, report; resumes; -j and -n work
#?      [TEXT=] [CALIB_TEXT=] [PRODUCTION=] [BUDGETS=] [CALIBRATE="options"] [QUANTIZE=] [EVALUATE=] [REPORT=]
#?      [RACE=1]   points that surely miss or meet BUDGETS stop before all windows are read (docs/sweeps.md)
#? make retry MODEL= GRID= OUT=   the points that failed once more, then the report (docs/sweeps.md)
TEXT ?= datasets/handbook/evaluation
CALIB_TEXT ?= datasets/handbook/calibration
PRODUCTION ?= datasets/handbook/production
BUDGETS ?= datasets/budgets.csv
bin := $(BUILD)/bin
# One sweep per directory at a time: a second one waits. Each stage skips what is finished and current by
# content digest, so running them again is the resume.
lock = flock $(OUT)/.lock
plan = $(bin)/qsweep-plan --grid $(GRID) --out $(OUT)
# What a failed gate does to make: fail (exit status 2) or report (the table says it, make succeeds).
GATE ?= fail
# The call of this sweep, for `qsweep plan --verify` and --status; its time is when the run began.
sweep_variables := MODEL GRID OUT TEXT CALIB_TEXT PRODUCTION BUDGETS CALIBRATE QUANTIZE EVALUATE REPORT RACE BUILD GATE
quoted = '$(subst ','\'',$1)'
sweep_call = make sweep$(foreach v,$(sweep_variables),$(if $(call is_given,$v), $v=$(call quoted,$($v))))
sweep_needs = @: $(if $(and $(MODEL),$(GRID),$(OUT)),,$(error make $(or $1,sweep) needs MODEL=, GRID= and OUT=)) \
  $(foreach v,MODEL GRID OUT TEXT CALIB_TEXT PRODUCTION BUDGETS,$(if $(word 2,$($v)),$(error $v="$($v)" has a blank, $\
    which make cannot keep in one piece: give a path without, or call the stages yourself (make -n sweep shows them))))
calibrate_call = $(bin)/qsweep-calibrate --model $(MODEL) --text $(CALIB_TEXT) --production $(PRODUCTION) \
  --out $(OUT)/calib.h5 $(CALIBRATE)
quantize_call = $(bin)/qsweep-quantize --model $(MODEL) --calib $(OUT)/calib.h5 --out $(OUT) --keep-going $(QUANTIZE)
evaluate_call = $(bin)/qsweep-evaluate --model $(MODEL) --text $(TEXT) --out $(OUT) --keep-going \
  $(if $(RACE),--race $(BUDGETS)) $(EVALUATE)
report_call = $(bin)/qsweep-report --budgets $(BUDGETS) --out $(OUT) $(REPORT) $$($(plan) --files eval --present)
# Points that failed leave the sweep without them, and make with an error.
report_sweep = { $(lock) $(report_call) || { rc=$$?; [ $$rc = 3 ] && [ "$(GATE)" = report ] || exit $$rc; }; \
  $(plan) --status $(OUT) --complete --only missing,running,failed,quantized; }
.PHONY: sweep sweep-start sweep-calibrate sweep-quantize sweep-evaluate sweep-report retry
sweep: sweep-report
sweep-report: sweep-evaluate
	$(report_sweep)
sweep-evaluate: sweep-quantize
	$(lock) $(evaluate_call) $$($(plan) --files quant --present | sed 's/^/--quant /')
sweep-quantize: sweep-calibrate
	$(lock) $(quantize_call) --grid $(GRID)
sweep-calibrate: sweep-start
	$(lock) $(calibrate_call)
sweep-start: $(programs)
	$(call sweep_needs)
	@mkdir -p $(OUT)
	@cmp -s $(GRID) $(OUT)/grid.csv || cp $(GRID) $(OUT)/grid.csv
	@echo $(call quoted,$(sweep_call)) >$(OUT)/.sweep

# Specs have no blanks. What fails again is still recorded as failed, and the last line of the report says so.
retry: $(programs)
	$(call sweep_needs,retry)
	@[ -n "$$($(plan) --only failed --specs-only)" ] || echo "retry: no point of $(GRID) has failed in $(OUT)"
	@specs=$$($(plan) --only failed --specs-only | sed 's/^/--spec /'); \
	  [ -z "$$specs" ] || $(lock) $(quantize_call) $$specs || true
	@quants=$$($(plan) --only failed,quantized --files quant --present | sed 's/^/--quant /'); \
	  [ -z "$$quants" ] || $(lock) $(evaluate_call) $$quants || true
	$(report_sweep)

#? make slurm MODEL= GRID= OUT= [PARTITION=] [TIME=60] [MAX_PARALLEL=4] [GPUS_PER_TASK=] [CPUS_PER_TASK=]
#?                                the same as jobs: calibrate, reference, an array of shards, report (docs/sweeps.md)
#? make slurm-status GRID= OUT=   what the jobs do, and the state of the points
TIME ?= 60
MAX_PARALLEL ?= 4
GRACE ?= 120
slurm_variables := OUT MODEL GATE PARTITION TIME MAX_PARALLEL GPUS_PER_TASK CPUS_PER_TASK GRACE SBATCH_EXTRA
.PHONY: slurm slurm-status
slurm: sweep-start
	@$(foreach v,$(slurm_variables),$v=$(call quoted,$($v))) plan=$(call quoted,$(plan)) \
	  calibrate=$(call quoted,$(calibrate_call)) quantize=$(call quoted,$(quantize_call)) \
	  evaluate=$(call quoted,$(evaluate_call)) report=$(call quoted,$(report_call)) scripts/slurm/submit
slurm-status:
	@scripts/slurm/status $(OUT) $(plan)

#? make readme-picture [OUT=results/demo]  pictures of OUT/report.html, and of runs and probe of results/demo-full where it
#?                                is there, into docs/pictures, with Chromium
.PHONY: readme-picture report-picture
readme-picture report-picture:
	@scripts/report-picture $(or $(OUT),results/demo)/report.html docs/pictures $(wildcard results/demo-full/report.html)

#? make golden                     the golden tables and page of the tests anew; look at their git diff
.PHONY: golden
golden: all $(BUILD)/tests/tool_eval_fixture
	@scripts/make-golden $(BUILD) tests/golden

# ---- more checks ----
#? make fuzz [FUZZ_SECONDS=60]     libFuzzer targets of every parser under ASan and UBSan (clang)
FUZZ_SECONDS ?= 60
fuzz_programs := $(patsubst tests/fuzz/%.c,$(BUILD)/fuzz/%,$(wildcard tests/fuzz/fuzz_*.c))
# The parsers, the readers of artifacts and what they stand on. The rest, machine kernels above all, comes as it is in
# the library, since targets do not run it; HDF5 is the system's.
fuzz_sources := $(filter-out %_avx2.c %_avx512.c,$(wildcard pipeline/base/*.c pipeline/data/*.c pipeline/model/*.c \
    pipeline/artifact/*.c pipeline/report/*.c pipeline/rag/wordpiece*.c) \
  $(wildcard pipeline/backend/packed.c pipeline/backend/packed_exl2.c pipeline/backend/formats.c \
    pipeline/quant/spec*.c pipeline/quant/grid.c pipeline/quant/mix.c pipeline/quant/quant_file.c \
    pipeline/stat/calib_file.c pipeline/metric/metrics.c pipeline/metric/*_file.c pipeline/metric/lines.c \
    pipeline/metric/long_runs.c pipeline/metric/semantics.c pipeline/metric/baseline.c \
    pipeline/train/examples.c pipeline/train/batch.c))
fuzz_objects := $(fuzz_sources:%.c=$(BUILD)/fuzz-objects/%.o)
.PHONY: fuzz fuzz-programs
fuzz-programs: $(fuzz_programs)
fuzz: fuzz-programs
	@scripts/run-fuzz $(BUILD) $(FUZZ_SECONDS)

$(BUILD)/fuzz-objects/%.o: %.c
	@mkdir -p $(@D)
	$(if $(V),,@echo "  CC $@")
	$(Q)clang -std=c11 -O1 -g -D_GNU_SOURCE -Ipipeline -I. -Wno-unknown-pragmas \
	  $(call hdf5_for,$<) \
	  -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined -MMD -MP -c $< -o $@
# An archive, so that a target links only what it calls.
$(BUILD)/fuzz-objects/libqsweep.a: $(fuzz_objects)
	$(Q)rm -f $@ && ar rcs $@ $^
$(BUILD)/fuzz/%: $(BUILD)/fuzz-objects/tests/fuzz/%.o $(BUILD)/fuzz-objects/libqsweep.a $(library)
	@mkdir -p $(@D)
	$(Q)clang -fsanitize=fuzzer,address,undefined -Wl,--gc-sections $< \
	  -Wl,--start-group $(wordlist 2,3,$^) -Wl,--end-group -o $@ $(libs) -lgomp

#? make test-peers                 export, load with GPTQModel, llama.cpp and tokenizers, compare
#?      [TORCH_PYTHON=] [LLAMA_PYTHON=]
.PHONY: test-peers
test-peers: $(programs) $(BUILD)/datasets/world/generate
	@scripts/peers/test_peers $(BUILD) $(OUT)

#? make test-faults [OUT=build/faults] [MODEL=reader] [GOLD=datasets/world] [ITEMS=0] [EVALUATE="options"]
#?                                 plants faults and looks whether the report finds each (docs/faults.md); 0 = all questions
.PHONY: test-faults
test-faults: $(programs) $(BUILD)/tests/tool_plant $(BUILD)/datasets/world/generate
	@tests/plant_faults $(BUILD) $(or $(OUT),$(BUILD)/faults) $(or $(ITEMS),0) $(or $(MODEL),reader) \
	  $(or $(GOLD),datasets/world) $(EVALUATE)

#? make test-slurm                a sweep through a Slurm of the distribution's packages, started for it (docs/reliability.md)
.PHONY: test-slurm
test-slurm: $(programs)
	@scripts/install-deps --slurm
	@scripts/run-tests $(BUILD) slurm

#? make test-kills [KILLS=60] [DAMAGES=100]   stages killed at random moments, artifacts damaged at random places; minutes
KILLS ?= 60
DAMAGES ?= 100
.PHONY: test-kills
test-kills: $(programs)
	@tests/kill_stages $(BUILD) $(BUILD)/kills $(KILLS) && tests/damage_artifacts $(BUILD) $(BUILD)/damage $(DAMAGES)

#? make test-memory [OUT=]          peak memory of the stages on a random model of 1e9 parameters; minutes, 5 GB of disk
.PHONY: test-memory
test-memory: $(programs) $(BUILD)/tests/tool_random_model $(BUILD)/tests/tool_peak
	@scripts/test-memory $(BUILD) $(OUT)

#? make bench                      kernels and ops against the reference and the machine's peaks
bench_programs := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/bench_*.c))
.PHONY: bench
bench: $(bench_programs)
	$(Q)for program in $^; do $$program || exit; done
$(bench_programs) $(tool_programs): $(BUILD)/tests/%: $(BUILD)/tests/%.o $(library)
	$(link)

#? make bench-gpu [OUT=build/gpu]  the CUDA backend on the shapes of an 8B model, beside torch where it is (docs/gpu.md)
#? make bundle                     build/bundle.tar.xz: programs, tests and libraries for a machine with a GPU alone
bench_gpu_objects := $(patsubst %.c,$(SHARE)/%.o,$(wildcard tests/bench_gpu/*.c))
.PHONY: bench-gpu bundle
bench-gpu: $(BUILD)/tests/bench_cuda
	@BUILD=$(BUILD) scripts/bench/gpu-check $(or $(OUT),$(BUILD)/gpu) bench torch
bundle: $(programs) $(world)/calibration.txt $(world)/evaluation.txt $(BUILD)/tests/bench_cuda $(filter $(BUILD)/tests/test_cuda_%,$(test_programs))
	@scripts/bench/bundle $(BUILD)
tools cuda-tests: $(BUILD)/tests/bench_cuda
$(BUILD)/tests/bench_cuda: $(bench_gpu_objects) $(library)
	$(link)
-include $(bench_gpu_objects:.o=.d)

#? make datasets                   the programs that make and check the gold sets and training examples, and the check
.PHONY: datasets
datasets: $(dataset_programs)
	$(Q)$(BUILD)/datasets/check datasets/world datasets/handbook

#? make train-demo [OUT=build/reader] [TRAIN="options"]   train the project's own model (docs/demo-model.md); resumes
.PHONY: train-demo
train-demo: $(bin)/qsweep-train $(dataset_programs)
	@scripts/train-demo $(BUILD) $(or $(OUT),$(BUILD)/reader) $(TRAIN)

#? make docs                       regenerate docs/artifacts.md, columns.md, symptoms.md (no diff when current)
.PHONY: docs clean plugin
docs: all
	$(Q)$(bin)/qsweep-report --schema >docs/artifacts.md
	$(Q)$(bin)/qsweep-report --list >docs/columns.md
	$(Q)$(bin)/qsweep-report --symptoms >docs/symptoms.md

#? make plugin                     HDF5 filter plugin for h5dump and h5repack (HDF5_PLUGIN_PATH=build/plugin)
plugin: $(BUILD)/plugin/libqsweep_zstd.so
$(BUILD)/plugin/libqsweep_zstd.so: pipeline/artifact/zstd_filter.c pipeline/artifact/zstd_plugin.c
	@mkdir -p $(@D)
	$(Q)$(CC) $(cflags) $(hdf5_cflags) -DQS_H5_PLUGIN -fPIC -shared $^ -o $@ $(hdf5_libs) -lzstd

clean:
	rm -rf $(BUILD)

-include $(objects:.o=.d) $(fuzz_objects:.o=.d) \
  $(sort $(wildcard $(foreach b,$(BUILD) $(SHARE),$b/stages/*.d $b/tests/*.d $b/fuzz-objects/tests/fuzz/*.d $b/datasets/*.d $b/datasets/*/*.d)))
