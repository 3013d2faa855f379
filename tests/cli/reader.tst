# The project's own model reads: it answers the world's gold set in full precision and in 4 bits, and 2 bits plainly rounded
# show the damage (issue "A model of our own"; docs/demo-model.md). STATUS PATTERN COMMAND
0 . R=datasets/reader; sha256sum $R/model.safetensors | grep -q "^$(awk -F, '$1 == "reader-model" { print $4 }' datasets/MANIFEST.csv)"
0 . $QS_BUILD/datasets/world/generate --format text --examples 120 --seed 101 --k-min 2 --k-max 8 --questions 4 >$TMP/calibration.txt
0 . $QS_BUILD/datasets/world/generate --format text --examples 20 --seed 103 --k-min 2 --k-max 8 --questions 4 --held-out >$TMP/evaluation.txt
0 . qsweep-calibrate --quiet --model datasets/reader --text $TMP/calibration.txt --samples 32 --out $TMP/calib.h5
0 . qsweep-quantize --quiet --model datasets/reader --calib $TMP/calib.h5 --spec rtn:bits=2,group=256,sym=1 --spec gptq:bits=4,group=64,sym=1 --out $TMP
0 . qsweep-evaluate --model datasets/reader --text $TMP/evaluation.txt --windows 2 --qa datasets/world --k 20 --items 10 --tasks semantic,json --encoder tfidf --quant $TMP/rtn-b2-g256-sym.quant.h5 --quant $TMP/gptq-b4-g64-sym.quant.h5 --out $TMP >$TMP/log 2>&1
0 ^right$ awk -v name=fp 'index($1, name ":") == 1 && match($0, /answers [0-9.]+/) { v = substr($0, RSTART + 8, RLENGTH - 8); print (v >= 0.85 ? "right" : v) }' $TMP/log
0 ^right$ awk -v name=gptq-b4-g64-sym 'index($1, name ":") == 1 && match($0, /answers [0-9.]+/) { v = substr($0, RSTART + 8, RLENGTH - 8); print (v >= 0.80 ? "right" : v) }' $TMP/log
0 ^damaged$ awk -v name=rtn-b2-g256-sym 'index($1, name ":") == 1 && match($0, /answers [0-9.]+/) { v = substr($0, RSTART + 8, RLENGTH - 8); print (v <= 0.75 ? "damaged" : v) }' $TMP/log
