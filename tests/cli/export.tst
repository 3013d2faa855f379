# export: formats, plan, refusals before any work, nothing left behind. STATUS PATTERN COMMAND
0 --format qsweep export --help
0 llama.cpp qsweep export --list
0 . qsweep quantize --model tests/fixtures/tiny --spec rtn:bits=4,group=32,sym=1 --spec rtn:bits=4,group=32,sym=0 --spec rtn:bits=8,group=32,sym=0 --out $TMP/x
0 [0-9]+.bytes._of.tensors qsweep export --model tests/fixtures/tiny --quant $TMP/x/rtn-b4-g32-sym.quant.h5 --format gptq --out $TMP/gptq --dry-run
0 "status":."planned" qsweep export --model tests/fixtures/tiny --quant $TMP/x/rtn-b4-g32-sym.quant.h5 --format gptq --out $TMP/gptq --dry-run --json --quiet
0 . ! ls -d $TMP/gptq 2>/dev/null
0 GPTQModel qsweep export --model tests/fixtures/tiny --quant $TMP/x/rtn-b4-g32-sym.quant.h5 --format gptq --out $TMP/gptq
0 ^config.json_model.safetensors_quantize_config.json_tokenizer.json_$ ls $TMP/gptq | tr '\n' ' '
[05] use.--format.gptq_v2 qsweep export --model tests/fixtures/tiny --quant $TMP/x/rtn-b4-g32-asym.quant.h5 --format gptq --out $TMP/v1 --dry-run
0 "written" qsweep export --model tests/fixtures/tiny --quant $TMP/x/rtn-b4-g32-asym.quant.h5 --format gptq_v2 --out $TMP/new/gptq_v2 --json --quiet
0 q4_0 qsweep export --model tests/fixtures/tiny --quant $TMP/x/rtn-b4-g32-sym.quant.h5 --format gguf --out $TMP/m.gguf && qsweep doctor --model $TMP/m.gguf
0 . qsweep export --quiet --model tests/fixtures/tiny --quant $TMP/x/rtn-b4-g32-sym.quant.h5 --format gguf --out $TMP/made/with/m.gguf && cmp $TMP/made/with/m.gguf $TMP/m.gguf
# The bytes that the plan says are those of the tensors in the file.
0 ^0$ python3 -c "import json,struct,sys; f=open('$TMP/gptq/model.safetensors','rb').read(); n=struct.unpack('<Q',f[:8])[0]; print(len(f)-8-n-json.loads(sys.stdin.read())['bytes'])" < <(qsweep export --model tests/fixtures/tiny --quant $TMP/x/rtn-b4-g32-sym.quant.h5 --format gptq --out $TMP/z --dry-run --json --quiet)

# Codes found anew on the grid of a type that keeps none: by rounding, by GPTQ with calibration; what comes out evaluates.
0 q5_1.*by.rounding qsweep export --model tests/fixtures/tiny --quant $TMP/x/rtn-b8-g32-asym.quant.h5 --format gguf --type q5_1 --out $TMP/rounded.gguf
0 . qsweep calibrate --quiet --model tests/fixtures/tiny --text datasets/handbook/calibration --samples 4 --seqlen 32 --out $TMP/calib.h5
0 q5_0.*by.GPTQ qsweep export --model tests/fixtures/tiny --quant $TMP/x/rtn-b8-g32-asym.quant.h5 --format gguf --type q5_0 --calib $TMP/calib.h5 --out $TMP/aimed.gguf
0 . qsweep evaluate --quiet --model tests/fixtures/tiny --checkpoint $TMP/aimed.gguf --text datasets/handbook/evaluation --ctx 32 --windows 2 --tasks ppl --out $TMP/ev
0 changes.nothing qsweep export --model tests/fixtures/tiny --quant $TMP/x/rtn-b4-g32-sym.quant.h5 --format gguf --calib $TMP/calib.h5 --out $TMP/kept.gguf
0 . cmp $TMP/kept.gguf $TMP/m.gguf
0 . qsweep quantize --quiet --model tests/fixtures/models/smollm2 --spec rtn:bits=4,group=16,sym=1 --out $TMP/s
0 embedding.in.q8_0,.by.rounding:.its.rows.are.no.whole.blocks qsweep export --model tests/fixtures/tiny --quant $TMP/x/rtn-b4-g32-sym.quant.h5 --format gguf --embedding-type q6_k --out $TMP/tables.gguf
0 . qsweep evaluate --quiet --model tests/fixtures/tiny --checkpoint $TMP/tables.gguf --text datasets/handbook/evaluation --ctx 32 --windows 2 --tasks ppl --out $TMP/ev
0 embedding.in.iq4_nl,.by.rounding:.its.rows.are.no.whole.blocks qsweep export --model tests/fixtures/tiny --quant $TMP/x/rtn-b4-g32-sym.quant.h5 --format gguf --type iq4_nl --embedding-type iq4_xs --calib $TMP/calib.h5 --out $TMP/values.gguf
0 . qsweep evaluate --quiet --model tests/fixtures/tiny --checkpoint $TMP/values.gguf --text datasets/handbook/evaluation --ctx 32 --windows 2 --tasks ppl --out $TMP/ev
2 head.is.its.embedding qsweep export --model tests/fixtures/tiny --quant $TMP/x/rtn-b4-g32-sym.quant.h5 --format gguf --head-type q6_k --out $TMP/y
5 32;.use.--type.f16 qsweep export --model tests/fixtures/models/smollm2 --quant $TMP/s/rtn-b4-g16-sym.quant.h5 --format gguf --type q4_k --out $TMP/y
# Mixtures: types by matrix, named as llama.cpp names them; tables keep options of their own.
0 q4_k_m.*Q4_K_M:.q4_k qsweep export --list
0 iq4_xs_m.*IQ4_XS:.iq4_xs;.head.q6_k;.v.that.four.or.more.heads.share.q5_k qsweep export --list
0 iq4_xs_m.*iq4_nl.14.*embedding.in.q8_0 qsweep export --model tests/fixtures/tiny --quant $TMP/x/rtn-b8-g32-asym.quant.h5 --format gguf --type iq4_xs_m --out $TMP/mixed-values.gguf 2>&1 | tr '\n' ' '
0 q5_0.12,.q8_0.2.*by.GPTQ.*embedding.in.q8_0 qsweep export --model tests/fixtures/tiny --quant $TMP/x/rtn-b8-g32-asym.quant.h5 --format gguf --type q4_k_m --calib $TMP/calib.h5 --out $TMP/mixed.gguf 2>&1 | tr '\n' ' '
0 . qsweep evaluate --quiet --model tests/fixtures/tiny --checkpoint $TMP/mixed.gguf --text datasets/handbook/evaluation --ctx 32 --windows 2 --tasks ppl --out $TMP/ev
0 embedding.in.f16 qsweep export --model tests/fixtures/tiny --quant $TMP/x/rtn-b8-g32-asym.quant.h5 --format gguf --type q3_k_s --embedding-type f16 --out $TMP/mixed-tables.gguf
2 mixtures.q2_k_m.*q5_k_m qsweep export --model tests/fixtures/tiny --quant $TMP/x/rtn-b4-g32-sym.quant.h5 --format gguf --type q4_k_l --out $TMP/y
2 gguf.alone qsweep export --model tests/fixtures/tiny --quant $TMP/x/rtn-b4-g32-sym.quant.h5 --format gptq --type q4_0 --out $TMP/y
4 another.model qsweep export --model tests/fixtures/models/llama2 --quant $TMP/x/rtn-b8-g32-asym.quant.h5 --format gguf --type q5_0 --calib $TMP/calib.h5 --out $TMP/y

# Several points in one call: to paths of their own, all planned before the first is written.
0 grid/rtn-b4-g32-asym-gptq_v2" qsweep export --model tests/fixtures/tiny --quant $TMP/x/rtn-b4-g32-sym.quant.h5 --quant $TMP/x/rtn-b4-g32-asym.quant.h5 --format gptq_v2 --out $TMP/grid --json --quiet
0 ^rtn-b4-g32-asym-gptq_v2_rtn-b4-g32-sym-gptq_v2_$ ls $TMP/grid | tr '\n' ' '
0 . diff -r $TMP/grid/rtn-b4-g32-asym-gptq_v2 $TMP/new/gptq_v2
0 b8-g32-asym-q5_0.gguf:.written qsweep export --model tests/fixtures/tiny --quant $TMP/x/rtn-b4-g32-sym.quant.h5 --quant $TMP/x/rtn-b8-g32-asym.quant.h5 --format gguf --type q5_0 --calib $TMP/calib.h5 --out $TMP/new/files
0 . cmp $TMP/new/files/rtn-b8-g32-asym-q5_0.gguf $TMP/aimed.gguf
2 the.same.point qsweep export --model tests/fixtures/tiny --quant $TMP/x/rtn-b4-g32-sym.quant.h5 --quant $TMP/x/rtn-b4-g32-sym.quant.h5 --format gguf --out $TMP/y
5 --type.f16 qsweep export --model tests/fixtures/tiny --quant $TMP/x/rtn-b4-g32-sym.quant.h5 --quant $TMP/x/rtn-b8-g32-asym.quant.h5 --format gguf --out $TMP/y

2 needed qsweep export --model tests/fixtures/tiny --format gptq --out $TMP/y
2 one.of.gptq qsweep export --model tests/fixtures/tiny --quant $TMP/x/rtn-b4-g32-sym.quant.h5 --format onnx --out $TMP/y
2 there.already qsweep export --model tests/fixtures/tiny --quant $TMP/x/rtn-b4-g32-sym.quant.h5 --format gptq --out $TMP/gptq
2 there.already qsweep export --model tests/fixtures/tiny --quant $TMP/x/rtn-b4-g32-sym.quant.h5 --format gguf --out $TMP/m.gguf
5 --type.f16 qsweep export --model tests/fixtures/tiny --quant $TMP/x/rtn-b8-g32-asym.quant.h5 --format gguf --out $TMP/y
4 another.model qsweep export --model tests/fixtures/models/llama2 --quant $TMP/x/rtn-b4-g32-sym.quant.h5 --format gptq --out $TMP/y
4 missing.h5 qsweep export --model tests/fixtures/tiny --quant $TMP/missing.h5 --format gptq --out $TMP/y
6 . qsweep export --model tests/fixtures/tiny --quant $TMP/x/rtn-b4-g32-sym.quant.h5 --format gptq --out /proc/nowhere/y
6 . qsweep export --model tests/fixtures/tiny --quant $TMP/x/rtn-b4-g32-sym.quant.h5 --format gguf --out /proc/nowhere/y.gguf
0 . ! ls -d $TMP/y* $TMP/*.part.* 2>/dev/null
