//! The tables whose rows are made strange, and a row of each that belongs to one transaction.

use sqlx::{AssertSqlSafe, PgPool};

use super::values::{self, Random};

/// A table, and how a test finds or makes the row of a transaction in it. `$1` is the transaction's
/// id as text.
pub struct Table {
    pub name: &'static str,
    /// The condition that finds the row.
    pub row: &'static str,
    /// Writes the row, where an accept does not.
    pub insert: Option<&'static str>,
    /// How many rows of each column are made strange.
    pub each: usize,
    /// Columns whose values are states and names of Quartet's, each of which has its meaning.
    pub except: &'static [&'static str],
}

const JOB_COLUMNS: &[&str] = &["job_type", "status"];

pub const TABLES: &[Table] = &[
    Table {
        name: "transactions",
        row: "id = $1::uuid",
        insert: None,
        each: 5,
        except: &[],
    },
    Table {
        name: "apalis.jobs",
        row: "idempotency_key = $1 AND job_type = 'create_transaction'",
        insert: None,
        each: 2,
        except: JOB_COLUMNS,
    },
    Table {
        name: "apalis.jobs",
        row: "idempotency_key = $1 AND job_type = 'create_at_third_party'",
        insert: None,
        each: 2,
        except: JOB_COLUMNS,
    },
    Table {
        name: "apalis.jobs",
        row: "idempotency_key = $1 AND job_type = 'update_status'",
        insert: None,
        each: 2,
        except: JOB_COLUMNS,
    },
    Table {
        name: "apalis.jobs",
        row: "idempotency_key = $1 AND job_type = 'notify_client'",
        insert: None,
        each: 2,
        except: JOB_COLUMNS,
    },
    Table {
        name: "transaction_events",
        row: "transaction_id = $1::uuid",
        insert: None,
        each: 3,
        except: &[],
    },
    Table {
        name: "failed_jobs",
        row: "transaction_id = $1::uuid",
        insert: Some(
            "INSERT INTO failed_jobs
                (kind, cause, transaction_id, client_id, job_id, queue, job, reason)
            SELECT 'deadline', 'strange:' || $1, id, client_id, 'none:' || $1, 'update_status', '{}',
                'of a test'
            FROM transactions WHERE id = $1::uuid",
        ),
        each: 2,
        except: &[],
    },
    Table {
        name: "webhook_deliveries",
        row: "transaction_id = $1::uuid",
        insert: Some(
            "INSERT INTO webhook_deliveries (webhook_id, transaction_id, status, outcome)
            VALUES ('strange:' || $1, $1::uuid, 'pending', 'unchanged')",
        ),
        each: 1,
        except: &[],
    },
    Table {
        name: "reconcile_findings",
        row: "transaction_id = $1::uuid",
        insert: Some(
            "INSERT INTO reconcile_findings (transaction_id, finding, next_check_at)
            VALUES ($1::uuid, 'late', now() + interval '1 day')",
        ),
        each: 2,
        except: &[],
    },
    Table {
        name: "operator_actions",
        row: "transaction_id = $1::uuid",
        insert: Some(
            "INSERT INTO operator_actions (operator, action, transaction_id)
            VALUES ('Ada', 'retry_job', $1::uuid)",
        ),
        each: 2,
        except: &[],
    },
    Table {
        name: "clients",
        row: "id = (SELECT client_id FROM transactions WHERE id = $1::uuid)",
        insert: Some(
            "WITH client AS (
                INSERT INTO clients (name, api_key_hash, callback_url, signing_secret)
                SELECT 'strange:' || $1, sha256(convert_to($1, 'UTF8')), callback_url,
                    'whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD'
                FROM clients WHERE name = 'default'
                RETURNING id
            )
            UPDATE transactions SET client_id = client.id FROM client
            WHERE transactions.id = $1::uuid",
        ),
        each: 2,
        except: &[],
    },
    Table {
        name: "client_retiring_secrets",
        row: "client_id = (SELECT client_id FROM transactions WHERE id = $1::uuid)
            AND signing_secret = 'sealed:' || $1",
        insert: Some(
            "INSERT INTO client_retiring_secrets (client_id, signing_secret, valid_until)
            SELECT client_id, 'sealed:' || $1, now() + interval '1 day'
            FROM transactions WHERE id = $1::uuid",
        ),
        each: 1,
        except: &[],
    },
    Table {
        name: "past_pauses",
        row: "paused_at = to_timestamp(1400000000 + ('x' || left(md5($1), 7))::bit(28)::int)",
        insert: Some(
            "INSERT INTO past_pauses (queue, paused_at, resumed_at)
            SELECT 'update_status', begin, begin + interval '1 minute'
            FROM to_timestamp(1400000000 + ('x' || left(md5($1), 7))::bit(28)::int) AS begin",
        ),
        each: 3,
        except: &[],
    },
    Table {
        name: "minute_figures",
        row: "label = $1",
        insert: Some(
            "INSERT INTO minute_figures (minute, figure, label, value)
            VALUES (date_trunc('minute', now() - interval '5 minutes', 'UTC'), 'final', $1, 7)",
        ),
        each: 2,
        except: &[],
    },
    Table {
        name: "rejected_webhooks",
        row: "reason = $1",
        insert: Some(
            "INSERT INTO rejected_webhooks
                (minute, reason, count, last_at, last_detail, last_remote, last_webhook_id)
            VALUES (
                date_trunc('minute', now() - interval '5 minutes', 'UTC'), $1, 7, now(),
                'of a test', '192.0.2.1', 'msg_1'
            )",
        ),
        each: 4,
        except: &[],
    },
];

/// One column of a row, and the value that it gets.
#[derive(Debug, Clone)]
pub struct Strange {
    pub table: usize,
    pub column: String,
    /// An SQL expression.
    pub value: String,
}

impl Strange {
    pub fn table(&self) -> &'static Table {
        &TABLES[self.table]
    }
}

impl std::fmt::Display for Strange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value: String = self.value.chars().take(120).collect();
        write!(f, "{} ({}): {} = {value}", self.table().name, self.table().row, self.column)
    }
}

/// Strange values for the columns of [`TABLES`], as the catalog has them.
pub async fn generate(pool: &PgPool, random: &mut Random) -> Vec<Strange> {
    let columns = "SELECT attname::text, format_type(atttypid, NULL), NOT attnotnull
        FROM pg_attribute
        WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped AND attidentity = ''
            AND attgenerated = ''
        ORDER BY attnum";
    let mut strange = Vec::new();
    for (index, table) in TABLES.iter().enumerate() {
        let columns: Vec<(String, String, bool)> =
            sqlx::query_as(columns).bind(table.name).fetch_all(pool).await.unwrap();
        assert!(!columns.is_empty(), "{}", table.name);
        for (column, data_type, is_nullable) in columns {
            if table.except.contains(&column.as_str()) {
                continue;
            }
            let data_type = data_type.rsplit('.').next().unwrap_or_default();
            // More than are wanted: the constraints refuse some.
            let values = values::of_type(data_type, is_nullable, random);
            for value in random.pick(values, 3 * table.each) {
                strange.push(Strange { table: index, column: column.clone(), value });
            }
        }
    }
    strange
}

/// Writes the row of `transaction` if need be, and makes it strange; `false` where a constraint or
/// the type refuses the value.
pub async fn apply(pool: &PgPool, transaction: &str, strange: &Strange) -> bool {
    let table = strange.table();
    let mut tx = pool.begin().await.unwrap();
    if let Some(insert) = table.insert {
        sqlx::query(insert).bind(transaction).execute(&mut *tx).await.unwrap();
    }
    let Table { name, row, .. } = table;
    let update = format!("UPDATE {name} SET {} = {} WHERE {row}", strange.column, strange.value);
    match sqlx::query(AssertSqlSafe(update)).bind(transaction).execute(&mut *tx).await {
        Ok(updated) => {
            assert_eq!(updated.rows_affected(), 1, "{strange}");
            // Foreign keys are checked now.
            tx.commit().await.is_ok()
        }
        Err(error) => {
            let code = error.as_database_error().and_then(|error| error.code());
            // No value of the type, too large for an index, or against a constraint.
            let refused = code
                .is_some_and(|code| ["22", "23", "54"].iter().any(|class| code.starts_with(class)));
            assert!(refused, "{strange}: {error}");
            false
        }
    }
}
