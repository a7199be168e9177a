# Lists the recipes
default:
    @just --list

# Runs the whole stack with 200 transactions through it
demo *args:
    cargo run --release -- demo --transactions 200 --speed 60 {{args}}

# Runs the stack and keeps it up
dev *args:
    cargo run -- dev {{args}}

# Runs all tests; they start their own Postgres
test *args:
    cargo test --locked {{args}}

# Searches the model, and walks it on the database with other seeds than CI's: `just model 500`
model walks="500":
    QUARTET_TEST_DEEP=1 cargo test --locked --test it model:: -- --nocapture
    PROPTEST_CASES={{walks}} PROPTEST_RNG_SEED=$(date +%s) \
        cargo test --locked --test it model::on_the_database -- --nocapture

# Fuzzes every parser, or one of them, for this number of seconds: `just fuzz 600 signature`
fuzz seconds="60" *targets:
    fuzz/run {{seconds}} {{targets}}

# Pastes the README's commands into bash and zsh; needs both
walkthrough:
    .ci/walkthrough

# Tests a running stack against the OpenAPI document, longer than CI does
schemathesis *args:
    .ci/schemathesis --examples 200 {{args}}

# Generates clients with four generators and runs them, and the receivers of docs/clients.md
sdk:
    .ci/sdk

# Sends 100 payment intents to an unmodified fake Stripe server, with a profile file alone
localstripe:
    .ci/localstripe

# Runs a core of the tests on PostgreSQL 14, 16, 17 and 18, or one of them: `just postgres 18`
postgres *args:
    .ci/postgres-versions {{args}}

# Fails over a real Patroni cluster under load; needs Patroni, etcd and HAProxy
failover:
    .ci/failover

# Breaks everything around Quartet and checks the invariants; --seed 7 --minutes 2, --plan shows
chaos *args:
    cargo test --locked --test chaos -- {{args}}

# Measures; --quick looks at correctness alone, --only accept,e2e runs some sections
bench *args:
    cargo bench --locked --bench quartet -- {{args}}

# Draws docs/images/admission.svg: the rule by which posts are refused, beside a bound by the pace
admission-plot:
    QUARTET_TEST_WRITE=1 cargo test --locked --lib -- congestion::plot

# Formats
fmt:
    cargo fmt

# Checks the formatting
fmt-check:
    cargo fmt --check

# Lints; a warning is an error
lint:
    .ci/lint

# Builds the documentation; a warning is an error
docs:
    RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --document-private-items --lib --bins --examples

# Writes docs/configuration.md from the settings in src/config
configuration:
    QUARTET_TEST_WRITE=1 cargo test --locked --test docs -- configuration_page

# Lowers the numbers of words to avoid, in tests/docs/words.txt
words:
    QUARTET_TEST_WRITE=1 cargo test --locked --test docs -- words_to_avoid

# Makes the README's pictures of the console; needs Chromium, chromedriver and psql
screenshots:
    .ci/screenshots

# Checks the pages: settings, limits, links, words, named tests
docs-check:
    .ci/docs-check

# Writes openapi/quartet.json
openapi:
    cargo run --locked --quiet -- openapi > openapi/quartet.json

# Checks that openapi/quartet.json is what the code says
openapi-check:
    .ci/openapi-check

# Writes the query cache .sqlx from the migrations
sqlx:
    .ci/sqlx-prepare

# Checks that .sqlx is what the migrations and queries say
sqlx-check:
    .ci/sqlx-prepare --check

# Checks the dependencies: licences, bans, sources, and advisories where they can be reached
deny *args:
    .ci/deny {{args}}

# Reads /metrics and the alert rules with Prometheus's own tools
metrics-check:
    .ci/metrics-check

# Reads deploy/ with its formats' own tools, and runs the program in the image's file system
deploy-check:
    .ci/deploy-check

# Runs all that CI runs
ci:
    .ci/run

# Checks the subjects of the commits after a revision: `just commit-subjects origin/main`
commit-subjects since="HEAD~1":
    .ci/commit-subjects {{since}}
