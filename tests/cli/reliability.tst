# Kills, damage, full disks and two at a time (docs/reliability.md). STATUS PATTERN COMMAND
0 12.kills tests/kill_stages $QS_BUILD $TMP/kills 12
0 8.damages,.no.wrong.row tests/damage_artifacts $QS_BUILD $TMP/damage 8

# A disk that fills up: it is named, nothing is left, the next sweep ends as it should. Too little memory: nothing is published.
0 . cp -a $TMP/kills/calm $TMP/full && rm $TMP/full/*.quant.h5 $TMP/full/*.eval.h5
0 . printf '%s\n' 'qsweep quantize --quiet --model tests/fixtures/tiny --calib $TMP/full/calib.h5 --grid $TMP/kills/grid.csv --keep-going --out $TMP/full' >$TMP/quantize
6 . ulimit -f 8; trap '' XFSZ; bash $TMP/quantize
0 . ! ls $TMP/full/*.quant.h5 $TMP/full/*.part.* $TMP/full/*.failed 2>/dev/null
# HDF5 1.10.8 itself crashes when malloc refuses it a few bytes, so a limit on addresses may end in that; the files tell.
(6|139) . ulimit -v 90000; bash $TMP/quantize
0 . ! ls $TMP/full/*.quant.h5 $TMP/full/*.failed 2>/dev/null

# Two at a time without a lock, and files that may not be written.
0 . bash $TMP/quantize & bash $TMP/quantize & wait $! && wait
0 . chmod a-w $TMP/full/*.h5; for f in $TMP/full/*.quant.h5; do cmp <($QS_BUILD/tests/tool_artifact $f) <($QS_BUILD/tests/tool_artifact $TMP/kills/calm/${f##*/}) || exit 1; done
0 . rm -f $TMP/full/calib.h5; cp -a $TMP/full $TMP/two; for i in 1 2; do tests/sweep_make $QS_BUILD sweep MODEL=tests/fixtures/tiny GRID=$TMP/kills/grid.csv OUT=$TMP/two GATE=report CALIBRATE='--samples 100 --seqlen 64' EVALUATE='--ctx 64 --windows 4 --tasks ppl,kld' >$TMP/two.$i 2>&1 & pids+=($!); done; for p in ${pids[@]}; do wait $p || { cat $TMP/two.*; exit 1; }; done
0 the.same tests/same_tables $TMP/kills/calm $TMP/two
0 0.bad qsweep plan --verify $TMP/two

# Memory stays within a tenth of the plan, and the rest of the passes is foretold by the first.
0 . qsweep calibrate --model datasets/reader --text datasets/handbook/calibration --samples 4 --out $TMP/reader.h5
0 memory.*\([+-][0-9]_%\) qsweep quantize --model datasets/reader --calib $TMP/reader.h5 --spec gptq:bits=4,group=64 --spec awq:bits=4,group=64 --spec rtn:bits=4,group=64 --out $TMP/reader
0 memory.*\([+-][0-9]_%\) qsweep evaluate --model datasets/reader --text datasets/handbook/evaluation --windows 2 --tasks ppl,kld --quant $TMP/reader/gptq-b4-g64-sym.quant.h5 --quant $TMP/reader/rtn-b4-g64-sym.quant.h5 --out $TMP/reader >$TMP/said 2>&1; rc=$?; cat $TMP/said; exit $rc
0 passes.after.the.first:.*foretold cat $TMP/said
