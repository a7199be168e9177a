//! The operator's guide says what works: its SQL, commands and calls are run as they stand there.

use quartet::{
    domain::{DeadLetterKind, JobKind, JobState},
    operations::explain::CauseKind,
};
use reqwest::Method;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

use crate::support::{
    TestApp, command, spawn_api,
    world::{OPERATOR_TOKEN, add_client, set},
};

fn read(path: &str) -> String {
    std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn guide() -> String {
    read("docs/operators.md")
}

/// The fenced blocks of a language.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

/// The commands of the shell blocks, one each, without comments.
fn commands(text: &str) -> Vec<String> {
    let blocks = blocks(text, "sh").join("\n").replace("\\\n", " ");
    let lines = blocks.lines().map(str::trim);
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect()
}

/// What the commands act on, made anew for each: the one before may have closed it.
struct Subject {
    transaction: Uuid,
    /// A `deadline` about it.
    letter: Uuid,
    /// Its notification, which waits.
    job: String,
    /// Open dead letters of kind `exhausted`.
    exhausted: i64,
}

impl Subject {
    async fn prepare(app: &TestApp) -> Self {
        let transaction = app.client().accept().await;
        let letter = stop(app, transaction, "update_status", "deadline").await;
        let untold = app.client().accept().await;
        stop(app, untold, "notify_client", "exhausted").await;
        let job = app.job("notify_client", transaction).await.id;
        let exhausted =
            "SELECT count(*) FROM failed_jobs WHERE state = 'open' AND kind = 'exhausted'";
        let exhausted = sqlx::query_scalar(exhausted).fetch_one(&app.pool).await.unwrap();
        Self { transaction, letter, job, exhausted }
    }

    /// The command with its variables replaced.
    fn fill(&self, app: &TestApp, command: &str) -> String {
        let values = [
            ("$TRANSACTION_ID", self.transaction.to_string()),
            ("$DEAD_LETTER_ID", self.letter.to_string()),
            ("$JOB_ID", self.job.clone()),
            ("$SELECTED", self.exhausted.to_string()),
            ("$CLIENT", "default".to_owned()),
            ("$QUARTET", app.url().to_owned()),
            ("$OPERATOR", format!("Authorization: Bearer {OPERATOR_TOKEN}")),
        ];
        let filled = values
            .iter()
            .fold(command.to_owned(), |text, (variable, value)| text.replace(variable, value));
        assert!(!filled.contains('$'), "the guide does not name this variable: {filled}");
        filled
    }
}

/// A transaction's job stopped, as if it had run; returns its dead letter.
async fn stop(app: &TestApp, transaction: Uuid, queue: &str, kind: &str) -> Uuid {
    let stop = "
        WITH stopped AS (
            UPDATE apalis.jobs SET status = 'Failed', done_at = now()
            WHERE idempotency_key = $1::text AND job_type = $2
            RETURNING id, job_type
        )
        INSERT INTO failed_jobs
            (kind, cause, transaction_id, client_id, job_id, queue, job, reason)
        SELECT $3, 'job:' || stopped.id, $1, client_id, stopped.id, job_type, '{}', 'it stopped'
        FROM stopped, transactions WHERE transactions.id = $1
        RETURNING id";
    let stop = sqlx::query_scalar(stop).bind(transaction).bind(queue).bind(kind);
    stop.fetch_one(&app.pool).await.unwrap()
}

/// Splits a command as a shell does, as far as the guide goes.
fn words(command: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for character in command.chars() {
        match (quote, character) {
            (Some(open), _) if character == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            _ => word.get_or_insert_default().push(character),
        }
    }
    assert_eq!(quote, None, "{command}");
    words.extend(word);
    words
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_runs() {
    let app = spawn_api().await;
    let guide = guide();
    let commands: Vec<String> =
        commands(&guide).into_iter().filter(|line| line.starts_with("quartet ")).collect();
    assert!(commands.len() > 20, "{commands:?}");
    let mut settings = app.settings();
    settings.push(("QUARTET_RECONCILE__RATE".to_owned(), "1000".to_owned()));
    for command in &commands {
        for json in [false, true] {
            let filled = Subject::prepare(&app).await.fill(&app, command);
            let mut words = words(&filled);
            words.extend(json.then(|| "--json".to_owned()));
            let args: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
            let ended = command::run(&args, &settings, "").await;
            assert!(ended.success, "{command}: {ended:#?}");
            if json {
                ended.expect_json();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_is_in_the_document_and_is_answered() {
    let app = spawn_api().await;
    let document: Value = serde_json::from_str(&read("openapi/quartet.json")).unwrap();
    let guide = guide();
    let calls: Vec<String> =
        commands(&guide).into_iter().filter(|line| line.starts_with("curl ")).collect();
    assert!(calls.len() > 15, "{calls:?}");
    for call in &calls {
        let filled = Subject::prepare(&app).await.fill(&app, call);
        let (mut method, mut headers, mut body, mut path) = (None, Vec::new(), None, None);
        let mut words = words(&filled).into_iter().skip(1);
        while let Some(word) = words.next() {
            match word.as_str() {
                "-X" => method = words.next(),
                "-H" => headers.extend(words.next()),
                "-d" => body = words.next(),
                _ => path = word.strip_prefix(app.url()).map(str::to_owned),
            }
        }
        let path = path.unwrap_or_else(|| panic!("{call} calls nothing of ours"));
        let method: Method = method.as_deref().unwrap_or("GET").parse().unwrap();
        assert!(is_documented(&document, &method, &path), "{call}");
        let headers: Vec<(&str, &str)> =
            headers.iter().map(|header| header.split_once(": ").unwrap()).collect();
        let answer = app.anonymous().send(method, &path, &headers, body.unwrap_or_default()).await;
        assert_eq!(answer.status, 200, "{call}: {}", answer.text);
    }
}

/// Replacing secrets is practised rarely: what docs/secrets.md says must work when it is needed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_about_secrets_runs() {
    let app = spawn_api().await;
    add_client(&app.pool, "shop").await;
    let text = read("docs/secrets.md");
    let commands = commands(&text);
    assert!(commands.len() >= 5, "{commands:?}");
    let run = async |args: &[&str], settings: &[(String, String)]| {
        command::run(args, settings, "").await.expect().to_owned()
    };
    for command in &commands {
        let command = command.split("  #").next().unwrap();
        let words: Vec<&str> = command.split_whitespace().collect();
        assert_eq!(words[0], "quartet", "{command}");
        run(&words[1..], &app.settings()).await;
    }
    // The master key is lost.
    let mut settings = app.settings();
    let key = run(&["secrets", "generate-key"], &settings).await;
    set(&mut settings, "QUARTET_SECRETS__MASTER_KEY", key.trim());
    let mut connection = PgConnection::connect(app.database_url()).await.unwrap();
    let [lost] = blocks(&text, "sql")[..] else { panic!("one block of SQL") };
    execute(&mut connection, lost).await.unwrap();
    for client in ["shop", "default"] {
        run(&["clients", "rotate-secret", client], &settings).await;
    }
    run(&["secrets", "status"], &settings).await;
}

fn is_documented(document: &Value, method: &Method, path: &str) -> bool {
    let path = path.split('?').next().unwrap();
    let paths = document["paths"].as_object().unwrap();
    paths.iter().any(|(template, operations)| {
        let (wanted, parts): (Vec<_>, Vec<_>) =
            (template.split('/').collect(), path.split('/').collect());
        let fits = |(wanted, part): (&&str, &&str)| wanted.starts_with('{') || wanted == part;
        wanted.len() == parts.len()
            && wanted.iter().zip(&parts).all(fits)
            && operations.get(method.as_str().to_lowercase()).is_some()
    })
}

/// Statements that read views alone run as `quartet_reader`, as the guide says; others as the
/// owner.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_statement_runs() {
    let app = spawn_api().await;
    let subject = Subject::prepare(&app).await;
    let mut connection = PgConnection::connect(app.database_url()).await.unwrap();
    let person = "SELECT current_database() || '_person'";
    let person: String = sqlx::query_scalar(person).fetch_one(&mut connection).await.unwrap();
    execute(&mut connection, &format!("CREATE ROLE {person}")).await.unwrap();
    let guide = guide();
    let text = blocks(&guide, "sql").join("\n");
    let (mut as_reader, mut faults) = (0, Vec::new());
    for statement in text.split_inclusive(';').map(str::trim).filter(|text| !text.is_empty()) {
        let filled = statement
            .replace(":'transaction_id'", &format!("'{}'", subject.transaction))
            .replace(":\"person\"", &format!("\"{person}\""));
        let tokens: Vec<&str> = filled.split_whitespace().collect();
        let mut relations =
            tokens.windows(2).filter(|pair| ["FROM", "JOIN"].contains(&pair[0])).peekable();
        if relations.peek().is_some() && relations.all(|pair| pair[1].starts_with("operator.")) {
            as_reader += 1;
            execute(&mut connection, "SET ROLE quartet_reader").await.unwrap();
        }
        if let Err(error) = execute(&mut connection, &filled).await {
            faults.push(format!("{statement}\n{error}"));
        }
        execute(&mut connection, "RESET ROLE").await.unwrap();
    }
    // Roles belong to the whole server.
    execute(&mut connection, &format!("DROP ROLE {person}")).await.unwrap();
    assert!(faults.is_empty(), "{faults:#?}");
    assert!(as_reader > 10, "{as_reader}");
}

async fn execute(connection: &mut PgConnection, statement: &str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(connection).await.map(|_| ())
}

#[test]
fn each_of_the_ten_questions_has_every_answer() {
    let guide = guide();
    let questions: Vec<&str> = guide.split("\n### ").skip(1).collect();
    let numbered = |question: &&&str| question.starts_with(|first: char| first.is_ascii_digit());
    let questions: Vec<&&str> = questions.iter().filter(numbered).collect();
    assert_eq!(questions.len(), 10);
    for (number, question) in (1..).zip(questions) {
        assert!(question.starts_with(&format!("{number}. ")), "{question}");
        assert!(!blocks(question, "sql").is_empty(), "{question}");
        let commands = commands(question);
        for program in ["quartet ", "curl "] {
            assert!(commands.iter().any(|line| line.starts_with(program)), "{program}: {question}");
        }
        for line in &commands {
            assert!(line.starts_with("quartet ") || line.starts_with("curl "), "{line}");
        }
        assert!(question.contains("\nConsole: "), "{question}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guide_names_every_column_and_every_word() {
    let app = spawn_api().await;
    let guide = guide();
    let columns = "SELECT table_name::text, string_agg(column_name, ', ' ORDER BY ordinal_position)
        FROM information_schema.columns WHERE table_schema = 'operator' GROUP BY table_name";
    let views: Vec<(String, String)> = sqlx::query_as(columns).fetch_all(&app.pool).await.unwrap();
    assert_eq!(views.len(), 10);
    for (view, columns) in views {
        let row = format!("| `operator.{view}` | `{columns}` |");
        assert!(guide.contains(&row), "the guide lacks: {row}");
    }
    let words = DeadLetterKind::ALL.iter().map(ToString::to_string);
    let words = words.chain(JobKind::ALL.iter().map(ToString::to_string));
    let words = words.chain(JobState::ALL.iter().map(ToString::to_string));
    for word in words.chain(CauseKind::ALL.iter().map(ToString::to_string)) {
        assert!(guide.contains(&format!("`{word}`")), "the guide lacks {word}");
    }
}
