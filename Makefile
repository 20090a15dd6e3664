# Two commands for newcomers: `make demo` and `make test`. PYTHON chooses the interpreter, 3.11 or 3.12.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test test-installed test-documents lint check accuracy results bench soak clean
.DEFAULT_GOAL := test

$(INSTALLED): pyproject.toml constraints.txt anomalib_anoseg.pth anomalib_anoseg.start
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --upgrade pip
	$(BIN)/python -m pip install --constraint constraints.txt --editable ".[dev]"
	touch $@

# Train and test on the demo's part with anomalib's own command, then show what came out.
demo: $(INSTALLED)
	$(BIN)/anomalib train --model AnoSeg --data SurfaceDemo --config configs/cpu.yaml \
		--data.category part --data.train_batch_size 8 \
		--model.pre_processor.init_args.image_size "[128,128]" \
		--trainer.logger lightning.pytorch.loggers.CSVLogger --trainer.logger.save_dir results/demo
	$(BIN)/python benchmarks/demo_summary.py results/AnoSeg/SurfaceDemo/part/latest results/demo

# A process that crashes ends its run.
TESTED := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadgroup \
	--max-worker-restart 0
INSTALLED_TESTS := tests/test_plugin.py tests/test_distributed.py tests/test_edge.py
DOCUMENTS := tests/test_documents.py
test: $(INSTALLED)
	$(TESTED) $(addprefix --ignore ,$(INSTALLED_TESTS) $(DOCUMENTS))

# anomalib's command in environments with our wheel, infer without torch (from a package index) and
# from C++, and training in several processes.
test-installed: $(INSTALLED)
	$(TESTED) $(INSTALLED_TESTS)

# Every command and example of the README and docs/, and the notebooks.
test-documents: $(INSTALLED)
	$(TESTED) $(DOCUMENTS)
	STEPS=10 EPOCHS=1 $(TESTED) --nbmake notebooks  # as little training as shows that they run

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Before each commit: style, types, and the tests that need no process of their own.
check: lint
	$(BIN)/python -m pytest -m "not slow"

# Train and test on MVTec AD: ROOT is the folder of its categories. Hours on a CPU.
CONFIG ?= configs/cpu.yaml
BATCH ?= 8
accuracy: $(INSTALLED)
	$(BIN)/python benchmarks/accuracy.py --root "$(or $(ROOT),$(error ROOT is the folder of the categories))" --config $(CONFIG) --batch $(BATCH) \
		--seeds $(or $(SEEDS),0 1 2) $(if $(CATEGORIES),--categories $(CATEGORIES))

# Every row that README and docs/results.md publish, and their tables: hours. Files of the same code in
# benchmarks/results are kept, so it may be stopped and started again. ROOT as above, only the demo
# needs none; ROWS and SEEDS choose some, ROWS="demo 'peers/bottle/*'". JOBS runs several at once. SET
# tries other settings and needs OUT, a folder for their files; with OUT the tables stay as they are.
results: $(INSTALLED)
	$(BIN)/python benchmarks/run_rows.py $(if $(ROOT),--root "$(ROOT)") $(if $(ROWS),--rows $(ROWS)) \
		$(if $(SEEDS),--seeds $(SEEDS)) $(if $(JOBS),--jobs $(JOBS)) \
		$(if $(OUT),--out "$(OUT)") $(if $(SET),--set $(SET))
	$(if $(OUT),,$(BIN)/python benchmarks/tables.py --write)

# Ratios, side by side; more than an hour on two cores, most of it for Draem, and more time for images
# of up to 20 megapixels, at the end.
bench: $(INSTALLED)
	$(BIN)/python -W ignore benchmarks/startup.py
	$(BIN)/python -W ignore benchmarks/synthesis.py
	$(BIN)/python -W ignore benchmarks/inference.py
	$(BIN)/python -W ignore benchmarks/resolution.py
	$(BIN)/python -W ignore benchmarks/scale.py
	$(BIN)/python -W ignore benchmarks/training.py
	$(BIN)/python -W ignore benchmarks/megapixels.py

# Faults and thousands of random inputs: half an hour on two cores, as root for the full disk.
soak: $(INSTALLED)
	EXAMPLES=1000 $(BIN)/python -m pytest tests/test_properties.py
	$(BIN)/python -W ignore benchmarks/soak.py

# Everything that these targets and the examples of the README write.
clean:
	rm -rf .venv build dist datasets results runs exported openvino_cache sheet.png
	cd notebooks && rm -rf datasets results runs .ipynb_checkpoints
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis .nox *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
