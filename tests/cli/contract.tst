# What product.md promises of every stage: exit statuses, files, what --json and --dry-run print. STATUS PATTERN COMMAND
0 . qsweep calibrate --quiet --model tests/fixtures/tiny --text datasets/handbook/calibration --samples 4 --seqlen 64 --out $TMP/c.h5 2>&1 && qsweep quantize --quiet --model tests/fixtures/tiny --calib $TMP/c.h5 --spec gptq:bits=4,group=32 --spec rtn:bits=4,group=32 --out $TMP/q && qsweep evaluate --quiet --model tests/fixtures/tiny --text datasets/handbook/evaluation --ctx 64 --windows 4 --tasks ppl,kld --quant $TMP/q/gptq-b4-g32-sym.quant.h5 --quant $TMP/q/rtn-b4-g32-sym.quant.h5 --out $TMP/e && ls $TMP/e

# A file that may not grow is a full disk: said, nothing left behind.
6 File.too.large bash -c "ulimit -f 20; qsweep quantize --quiet --model tests/fixtures/tiny --calib $TMP/c.h5 --spec gptq:bits=4,group=32 --out $TMP/u"
0 ^0$ ls -A $TMP/u | wc -l
# A grid that is wrong is a bad file; blanks around alternatives are none of their letters.
4 grid.csv:2.*bits=5 printf 'method,bits,group_size,variant\nrtn,5,64,sym\n' >$TMP/grid.csv; qsweep plan --grid $TMP/grid.csv
4 grid.csv:2.*reference.needs.no.point printf 'method,bits,group_size,variant\nfp,16,,\n' >$TMP/grid.csv; qsweep plan --grid $TMP/grid.csv
0 ^rtn-b8-g64-asym printf 'method,bits,group_size,variant\nrtn,4 | 8,64,sym | asym\n' >$TMP/grid.csv; qsweep plan --grid $TMP/grid.csv
