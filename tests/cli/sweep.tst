# Sweeps that go wrong: points that fail, artifacts that rot, writers that were killed. STATUS PATTERN COMMAND
0 . printf 'method,bits,group_size,variant\nrtn,4|8,32,sym\ngptq,4,32,sym\nexl2,2.0,,\n' >$TMP/grid.csv
0 . printf '%s\n' 'exec tests/sweep_make $QS_BUILD "$@" MODEL=tests/fixtures/tiny GRID=$TMP/grid.csv OUT=$TMP/out GATE=report CALIBRATE="--samples 100 --seqlen 64" EVALUATE="--ctx 64 --windows 4 --tasks ppl,kld"' >$TMP/make

# One point cannot be made: the others are done, make fails and says which, and so does the status.
4 not.calibrated.yet mkdir $TMP/out && qsweep plan --status $TMP/out --grid $TMP/grid.csv --complete
2 exl2-2.00bpw-h16.*failed.*cannot.be.reached bash $TMP/make sweep
0 4.points:.3.done,.0.quantized,.1.failed,.0.running,.0.missing;.nothing.left qsweep plan --status $TMP/out
0 "status":.2 qsweep plan --status $TMP/out --json
4 1.of.4.points qsweep plan --status $TMP/out --complete
0 ^exl2:bpw=2 qsweep plan --grid $TMP/grid.csv --out $TMP/out --only failed --specs-only
2 --only qsweep plan --grid $TMP/grid.csv --out $TMP/out --only lost
2 cannot.be.reached qsweep quantize --model tests/fixtures/tiny --grid $TMP/grid.csv --calib $TMP/out/calib.h5 --out $TMP/none
2 exl2-2.00bpw.*failed bash $TMP/make retry
0 . sed -i '/exl2/d' $TMP/grid.csv
0 no.point.*has.failed bash $TMP/make retry
0 3.done.*nothing.left bash $TMP/make sweep
0 . cp -a $TMP/out $TMP/good

# Verifying: every kind of damage is named with the command that mends it, what killed writers left is removed, what live
# ones write stays.
0 8.artifacts,.0.bad qsweep plan --verify $TMP/out
0 . for f in calib.h5 rtn-b4-g32-sym.quant.h5 rtn-b8-g32-sym.eval.h5; do n=$(stat -c %s $TMP/out/$f); printf '\377\377\377\377' | dd of=$TMP/out/$f bs=1 seek=$((n / 2)) conv=notrunc status=none; done
0 . truncate -s -100 $TMP/out/gptq-b4-g32-sym.eval.h5; cp $TMP/out/fp.eval.h5 $TMP/out/gptq-b4-g32-sym.quant.h5
0 . sh -c 'echo $$' >$TMP/pid; for f in x.quant.h5 summary.csv; do touch -d '2 minutes ago' $TMP/out/$f.part.$(cat $TMP/pid); done; touch $TMP/out/y.quant.h5.part.1
4 5.bad;.2.stale.parts.removed,.1.parts.being.written qsweep plan --verify $TMP/out
0 ^1$ ls $TMP/out/*.part.* | wc -l; rm $TMP/out/y.quant.h5.part.1
4 rm.*rtn-b4-g32-sym.quant.h5.*make.sweep.*CALIBRATE= qsweep plan --verify $TMP/out
4 gptq-b4-g32-sym.quant.h5.*quant qsweep plan --verify $TMP/out
4 "stage":.*qsweep-calibrate qsweep plan --verify $TMP/out --json
0 done qsweep plan --verify $TMP/out --json 2>/dev/null | python3 -c 'import json, os, sys; [os.remove(bad["path"]) for bad in json.load(sys.stdin)["bad"]]; print("done")'
0 nothing.left bash $TMP/make sweep
0 the.same tests/same_tables $TMP/good $TMP/out
0 0.bad qsweep plan --verify $TMP/out
4 . qsweep plan --verify $TMP/nowhere

# Codes that rot between the stages cost their point alone, and the next sweep after a removal ends as it would have.
0 . rm $TMP/out/*.eval.h5; n=$(stat -c %s $TMP/out/rtn-b4-g32-sym.quant.h5); printf '\377\377\377\377' | dd of=$TMP/out/rtn-b4-g32-sym.quant.h5 bs=1 seek=$((n / 2)) conv=notrunc status=none
2 rtn-b4-g32-sym.*failed.*re-run bash $TMP/make sweep
0 2.done,.0.quantized,.1.failed qsweep plan --status $TMP/out
0 . rm $TMP/out/rtn-b4-g32-sym.quant.h5
0 nothing.left bash $TMP/make retry
0 the.same tests/same_tables $TMP/good $TMP/out

# A grid of 2,000 points is planned in 2 s (of CPU time), with its sizes and costs too.
0 . printf 'method,bits,group_size,variant\n%s\n' "rtn|gptq,2|3|4|8,$(seq -s '|' 1 125),sym|asym" >$TMP/large.csv
0 2000.points ulimit -t 2; qsweep plan --grid $TMP/large.csv --out $TMP/out
0 2000.points ulimit -t 2; qsweep plan --grid $TMP/large.csv --status $TMP/out
0 2000.points qsweep plan --grid $TMP/large.csv --out $TMP/out --model tests/fixtures/tiny
