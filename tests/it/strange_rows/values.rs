//! Values of each type of column that nobody expects, as SQL expressions; a seed decides which.

/// SplitMix64: a seed gives the same numbers on every machine.
pub struct Random(u64);

impl Random {
    /// `PROPTEST_RNG_SEED` gives other values than `seed`.
    pub fn new(seed: u64) -> Self {
        let given = std::env::var("PROPTEST_RNG_SEED").ok();
        Self(given.map_or(seed, |seed| seed.parse().unwrap()))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// Some of `from`, at most `count`, in another order.
    pub fn pick(&mut self, mut from: Vec<String>, count: usize) -> Vec<String> {
        for last in (1..from.len()).rev() {
            let other = self.below(last + 1);
            from.swap(last, other);
        }
        from.truncate(count);
        from
    }
}

/// Strange values of a column of this type.
pub fn of_type(data_type: &str, is_nullable: bool, random: &mut Random) -> Vec<String> {
    let number = random.next() as i64;
    let mut values: Vec<String> = match data_type {
        "timestamp with time zone" => [
            "'infinity'",
            "'-infinity'",
            "'4713-01-01 BC'",
            "'0044-03-15 BC'",
            "'9999-12-31 12:00Z'",
            "'10000-01-01Z'",
            "'262143-01-01Z'",
            "'294276-12-31Z'",
            "'1969-07-20Z'",
            "now() + interval '1000 years'",
        ]
        .map(str::to_owned)
        .to_vec(),
        "jsonb" => json(number),
        "integer" => [i32::MIN, -1, 0, 1, i32::MAX - 1, i32::MAX, number as i32]
            .map(|number| format!("'{number}'"))
            .to_vec(),
        "bigint" => {
            [i64::MIN, -1, 0, 1, i64::MAX, number].map(|number| format!("'{number}'")).to_vec()
        }
        "double precision" => ["NaN", "Infinity", "-Infinity", "-1", "0", "1e308", "1e-308"]
            .map(|number| format!("'{number}'"))
            .to_vec(),
        "text" => text(number),
        "bytea" => vec![
            r"'\x'".to_owned(),
            r"'\x00ff0a'".to_owned(),
            "'{}'".to_owned(),
            format!("'{}'", "[".repeat(5_000)),
            "sha256('x')".to_owned(),
            "convert_to(repeat('x', 1000000), 'UTF8')".to_owned(),
        ],
        "uuid" => ["'00000000-0000-0000-0000-000000000000'", "gen_random_uuid()"]
            .map(str::to_owned)
            .to_vec(),
        "hstore" => hstore(),
        "text[]" => ["'{}'", r#"'{""}'"#, "'{a,a}'", "array_fill('x'::text, ARRAY[10000])"]
            .map(str::to_owned)
            .to_vec(),
        "boolean" => vec!["true".to_owned(), "false".to_owned()],
        other => panic!("no strange values for {other}"),
    };
    if is_nullable {
        values.push("NULL".to_owned());
    }
    values
}

fn json(number: i64) -> Vec<String> {
    let deep = format!("{{\"a\": {}{}}}", "[".repeat(200), "]".repeat(200));
    let literals = [
        "null",
        "true",
        "\"text\"",
        "[]",
        "[1, \"a\", null]",
        "{}",
        "{\"a\": 1}",
        "{\"a\": null, \"b\": \"x\"}",
        "{\"a\": [\"x\"], \"b\": {\"c\": []}}",
        "{\"a\": 1e400}",
        "{\"\": \"\"}",
        "{\"errors\": 5, \"Err\": {}}",
        "{\"errors\": {\"at\": 1}, \"status\": 7}",
        "{\"errors\": [1, null, {\"at\": [], \"error\": 2}]}",
        deep.as_str(),
    ];
    let mut values: Vec<String> =
        literals.iter().map(|literal| format!("'{literal}'::jsonb")).collect();
    values.push(format!("jsonb_build_object('a', repeat('x', 100000), 'n', {number}::bigint)"));
    values
}

fn text(number: i64) -> Vec<String> {
    let mut values: Vec<String> = [
        "",
        " ",
        "ordinary",
        "0",
        "null",
        "\u{1}\u{7f}\u{1b}[31m",
        "\u{202e}\u{feff}\u{10ffff}",
        "<script>alert(1)</script>",
        "''; DROP TABLE transactions; --",
        "{00000000-0000-0000-0000-000000000000}",
        "http://[",
        "https://\u{fffd}",
        "whsec_",
        "sealed:v1:x:y",
        "poll/99999999999999999999999999",
        "final",
    ]
    .map(|text| format!("'{text}'"))
    .to_vec();
    values.push(format!("'{number}'"));
    values.push("repeat('x', 140)".to_owned());
    values.push("repeat('é', 100000)".to_owned());
    values.push("upper(gen_random_uuid()::text)".to_owned());
    values
}

fn hstore() -> Vec<String> {
    let pairs = [
        ("polls", "'many'"),
        ("polls", "'-1'"),
        ("polls", "'4294967295'"),
        ("waits", "'4294967295'"),
        ("probes", "'4294967295'"),
        ("poll_since", "NULL"),
        ("poll_since", "'once'"),
        ("poll_since", "'+262142-12-31T23:59:59Z'"),
        ("poll_since", "'-262142-01-01T00:00:00Z'"),
        ("poll_since", "'9999-12-31T23:59:59Z'"),
        ("traceparent", "'é-é-é-é'"),
        ("traceparent", "repeat('0', 100000)"),
        ("", "''"),
    ];
    pairs.map(|(key, value)| format!("hstore('{key}', {value})")).to_vec()
}
