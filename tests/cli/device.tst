# Options that place a model on a GPU, where there is none. STATUS PATTERN COMMAND
0 --device-map qsweep doctor --help
0 --vram-budget qsweep evaluate --help
0 --vram-budget qsweep calibrate --help

# Every op against the reference.
0 attention_decode.*ok qsweep doctor --backend cpu --self-test
0 recording.*ok qsweep doctor --backend cpu-avx2 --self-test
1 . qsweep doctor --backend cpu --self-test | grep WRONG

2 it.is.auto,.cpu.or.N:layers qsweep doctor --backend cpu --device-map gpu
2 it.is.auto,.cpu.or.N:layers qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --backend cpu --device-map 3 --out $TMP/d
2 20:layers,12:layers qsweep doctor --backend cpu --device-map 1:layers,2
5 there.is.no.GPU qsweep doctor --backend cpu --device-map 1:layers,1:layers
2 a.number.of.bytes qsweep calibrate --model tests/fixtures/tiny --text datasets/handbook/calibration --backend cpu --vram-budget 4X --out $TMP/d.h5
5 there.is.no.GPU qsweep doctor --backend cpu --device-map 1:layers
5 there.is.no.GPU qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --ctx 64 --windows 2 --backend cpu --device-map 1:layers --out $TMP/d
0 limits.nothing qsweep doctor --backend cpu --vram-budget 4G
0 placement:.host qsweep doctor --backend cpu --device-map cpu --model tests/fixtures/tiny

# Where a point was computed is in every artifact.
0 . qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --ctx 64 --windows 2 --tasks latency,memory --backend cuda --device-map cpu --out $TMP/d
0 . qsweep calibrate --model tests/fixtures/tiny --text datasets/handbook/calibration --samples 4 --seqlen 32 --backend cpu --out $TMP/d.h5
0 . grep -aq kernels $TMP/d.h5
# What hangs is ended and said (checklist G8): here a text that never comes.
7 nothing.has.moved mkfifo $TMP/text && timeout 30 qsweep evaluate --model tests/fixtures/tiny --text $TMP/text --watchdog 1 --out $TMP/hang
0 . qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --ctx 64 --windows 2 --tasks ppl,kld --watchdog 5 --out $TMP/fine
