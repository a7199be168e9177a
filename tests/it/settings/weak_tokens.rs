//! Tokens and secrets that anybody can guess end the start, and are not repeated.

use crate::support::{World, command::run, world::set};

/// `quartet serve` with this value: what it says, having ended.
async fn refused(world: &World, variable: &str, value: &str) -> String {
    let mut settings = world.settings();
    set(&mut settings, variable, value);
    let ended = run(&["serve"], &settings, "").await;
    assert_eq!(ended.stdout, "", "{ended:?}");
    ended.expect_failure().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_token_that_is_short_quoted_or_an_examples_is_refused_and_not_repeated() {
    const TOKEN: &str = "QUARTET_OPERATOR_TOKEN";
    let world = World::new().await;
    for (token, part) in [
        ("x", "shorter than 16 characters"),
        ("0a1b2c3d4e5f6g7", "shorter than 16 characters"),
        // As an env file has it whose quotes nobody takes away.
        ("\"0a1b2c3d4e5f6g7h8i9j\"", "a quote"),
        ("'0a1b2c3d4e5f6g7h8i9j'", "a quote"),
        ("0a1b2c3d4e 5f6g7h8i9j", "white space"),
        ("change-me-to-32-random-characters", "a placeholder"),
        ("Replace_Me_Replace_Me", "a placeholder"),
        ("secret", "a placeholder"),
        ("0a1b2c3d4e5f6g7h8i9j,change-me", "entry 2 is a placeholder"),
    ] {
        let said = refused(&world, TOKEN, token).await;
        assert!(said.contains(TOKEN) && said.contains(part), "{token}: {said}");
        let inner = token.trim_matches(['"', '\'']);
        assert!(inner.len() < 7 || !said.contains(inner), "{said}");
        assert!(!said.contains("0a1b2c3d4e"), "{said}");
    }
}

/// `deploy/compose.env.example`, as it is: each value that it asks to change.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_value_of_the_example_is_taken_as_it_is() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/compose.env.example");
    let example = std::fs::read_to_string(path).unwrap();
    let pairs = example.lines().filter(|line| !line.starts_with('#'));
    let pairs = pairs.filter_map(|line| line.split_once('='));
    let ours: Vec<_> = pairs.filter(|(name, _)| name.starts_with("QUARTET_")).collect();
    assert_eq!(ours.len(), 5, "{ours:?}");
    let world = World::new().await;
    for (name, value) in ours {
        let said = refused(&world, name, value).await;
        assert!(said.contains(name) && said.contains("a placeholder"), "{name}: {said}");
        assert!(!said.contains(value), "{said}");
    }
}
