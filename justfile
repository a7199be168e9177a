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

# Measures; --quick looks at correctness alone, --only accept,e2e runs some sections
bench *args:
    cargo bench --locked --bench quartet -- {{args}}

# Formats
fmt:
    cargo fmt

# Checks the formatting
fmt-check:
    cargo fmt --check

# Lints; a warning is an error
lint:
    cargo clippy --locked --all-targets -- -D warnings

# Builds the documentation; a warning is an error
docs:
    RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --document-private-items

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

# Reads /metrics and the alert rules with Prometheus's own tools
metrics-check:
    .ci/metrics-check

# Runs all that CI runs
ci:
    .ci/run
