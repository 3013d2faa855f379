# The benchmark of a GPU and its scripts, on tiny shapes and on the CPU. STATUS PATTERN COMMAND
0 prefill $QS_BUILD/tests/bench_cuda --list
2 no.part $QS_BUILD/tests/bench_cuda --only linear,nothing
2 no.such.backend $QS_BUILD/tests/bench_cuda --backend tpu

# Every row has every column; results are checked against f64 before they are timed.
0 qsweep,decode,step,int4-g128-sym,1, $QS_BUILD/tests/bench_cuda --tiny --backend cpu --samples 2 --sample-ms 0.1 | tee $TMP/bench_cuda.csv
# Every part has rows; the second column of the first row is its name.
0 ^awq.decode.decoder.gptq.gram.linear.ops.part.peaks.prefill.$ awk -F, 'NF == 18 { print $2 }' $TMP/bench_cuda.csv | sort -u | tr '\n' ' '
0 . ! awk -F, 'NF != 18' $TMP/bench_cuda.csv | grep .
# The same through recordings and device kernels, where `make test` built them for the CPU.
0 . ! test -x $QS_BUILD/shim/tests/bench_cuda || $QS_BUILD/shim/tests/bench_cuda --tiny --only decode,decoder,gram,gptq --samples 1 --sample-ms 0.01

# One command for a machine with a GPU: a step that cannot run does not stop the next one, and the exit status tells.
2 unknown.step scripts/bench/gpu-check $TMP/gpu bench everything
4 there.is.no BUILD=$TMP/nowhere scripts/bench/gpu-check $TMP/gpu bench
0 bench:.ok BUILD=$QS_BUILD BENCH="--tiny --backend cpu --only linear,gram --samples 1 --sample-ms 0.1" scripts/bench/gpu-check $TMP/gpu bench
1 bench:.FAILED BUILD=$QS_BUILD BENCH="--backend tpu" scripts/bench/gpu-check $TMP/gpu-fails bench
1 OUT.OF.TIME BUILD=$QS_BUILD BENCH="--backend cpu --only linear" scripts/bench/gpu-check $TMP/gpu-late bench=1

# A record joins the peer's times.
0 . printf 'tool,part,name,format,rows,us\ntorch,linear,layer,f16,1,1000\n' >$TMP/gpu/bench_torch.csv
0 results/tiny here=$PWD && cd $TMP && $here/scripts/bench/record gpu tiny
0 ^qsweep,linear,layer,f16,1,.*,[0-9.e+]+$ cat $TMP/results/tiny/bench.csv
0 int4-g128-sym.*×.*× cat $TMP/results/tiny/README.md
4 bench_cuda.csv.is.missing cd $TMP && mkdir -p empty && date >empty/machine.txt && $OLDPWD/scripts/bench/record empty
