//! The OAuth2 token of a third party: kept in this process, and renewed by one call at a time.
//!
//! A token is renewed before its end, by the first call that finds it due; the others go on with it
//! while it is good. One that was refused (401) is renewed at once, unless it never worked: then
//! another one is not asked for sooner than [`RETRY_AFTER`]. One that has worked and was answered
//! 403 is renewed at once too, and stays where that fails: the 403 may have been about what the call
//! asked for. A failure is remembered for as long, so that the calls that have waited for it do not
//! all try again, one after the other.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::profiles::{SecretText, Token, TokenError};

/// How long a failure is remembered, and a token kept that was refused and never worked.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// A token is used for this share of its life at least, however early it is to be renewed.
const MIN_SHARE: f64 = 0.5;

/// A token that is in use.
#[derive(Debug, Clone)]
pub(super) struct TokenInUse(Arc<Issued>);

#[derive(Debug)]
struct Issued {
    text: SecretText,
    asked_at: Instant,
    /// From then on it is renewed; `None`: it does not end by itself.
    renew_at: Option<Instant>,
    ends_at: Option<Instant>,
    /// A call with it was answered, and not with a refusal.
    has_worked: AtomicBool,
    /// It had worked, and a call with it was answered 403.
    is_doubted: AtomicBool,
}

impl TokenInUse {
    pub fn text(&self) -> &SecretText {
        &self.0.text
    }

    /// It was taken.
    pub fn worked(&self) {
        self.0.has_worked.store(true, Ordering::Relaxed);
    }

    /// It was answered 403: the next call asks for another one. `false` where it never worked, so
    /// that another one would not help.
    pub fn doubt(&self) -> bool {
        let has_worked = self.0.has_worked.load(Ordering::Relaxed);
        self.0.is_doubted.store(has_worked, Ordering::Relaxed);
        has_worked
    }

    fn is_doubted(&self) -> bool {
        self.0.is_doubted.load(Ordering::Relaxed)
    }

    fn is_good(&self, now: Instant) -> bool {
        self.0.ends_at.is_none_or(|at| now < at)
    }

    fn is_due(&self, now: Instant) -> bool {
        self.is_doubted() || self.0.renew_at.is_some_and(|at| now >= at)
    }
}

/// The token of this process.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    present: Mutex<Option<TokenInUse>>,
    failed: Mutex<Option<(Instant, TokenError)>>,
    /// Held while a token is asked for.
    asking: tokio::sync::Mutex<()>,
}

impl Tokens {
    /// A token that is good now. `ask` asks for one.
    pub async fn get<F>(
        &self,
        renew_early: Duration,
        ask: impl Fn() -> F,
    ) -> Result<TokenInUse, TokenError>
    where
        F: Future<Output = Result<Token, TokenError>>,
    {
        let now = Instant::now();
        let good = self.present().filter(|token| token.is_good(now));
        let _asking = match good {
            Some(token) if !token.is_due(now) => return Ok(token),
            Some(token) if !token.is_doubted() => match self.asking.try_lock() {
                Ok(asking) => asking,
                // Somebody renews it.
                Err(_) => return Ok(token),
            },
            _ => self.asking.lock().await,
        };
        let now = Instant::now();
        let good = self.present().filter(|token| token.is_good(now));
        if let Some(token) = good.as_ref().filter(|token| !token.is_due(now)) {
            return Ok(token.clone());
        }
        if let Some(error) = self.failed_lately(now) {
            return good.ok_or(error);
        }
        let asked = ask().await;
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) =
            asked.as_ref().err().map(|error| (Instant::now(), error.clone()));
        match asked {
            Ok(token) => Ok(self.keep(token, now, renew_early)),
            Err(error) => good.ok_or(error),
        }
    }

    /// `token` was refused: the next call asks for another one. `false` where it never worked and
    /// is new, so that another one would not help.
    pub fn refused(&self, token: &TokenInUse) -> bool {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        if !present.as_ref().is_some_and(|present| Arc::ptr_eq(&present.0, &token.0)) {
            // Another call has done it.
            return true;
        }
        let is_useless =
            !token.0.has_worked.load(Ordering::Relaxed) && token.0.asked_at.elapsed() < RETRY_AFTER;
        if !is_useless {
            *present = None;
        }
        !is_useless
    }

    fn present(&self) -> Option<TokenInUse> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn failed_lately(&self, now: Instant) -> Option<TokenError> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, error) = failed.as_ref()?;
        (now.saturating_duration_since(*at) < RETRY_AFTER).then(|| error.clone())
    }

    /// Its life counts from before it was asked for: it may have been made then.
    fn keep(&self, token: Token, asked_at: Instant, renew_early: Duration) -> TokenInUse {
        let until = |life: Duration| asked_at.checked_add(life);
        let renew_after =
            |life: Duration| life.saturating_sub(renew_early).max(life.mul_f64(MIN_SHARE));
        let issued = TokenInUse(Arc::new(Issued {
            text: token.text,
            asked_at,
            renew_at: token.lives.and_then(|life| until(renew_after(life))),
            ends_at: token.lives.and_then(until),
            has_worked: AtomicBool::new(false),
            is_doubted: AtomicBool::new(false),
        }));
        *self.present.lock().unwrap_or_else(PoisonError::into_inner) = Some(issued.clone());
        issued
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    const NEVER: Duration = Duration::from_secs(3_600);

    fn token(nth: u32, lives: Duration) -> Token {
        Token { text: format!("token {nth}").into(), lives: Some(lives) }
    }

    #[tokio::test]
    async fn one_call_renews_and_the_others_wait_or_go_on() {
        let (tokens, asked, at_once) = (Tokens::default(), AtomicU32::new(0), AtomicU32::new(0));
        let ask = async || {
            assert_eq!(at_once.fetch_add(1, Ordering::SeqCst), 0, "two at once");
            tokio::time::sleep(Duration::from_millis(20)).await;
            at_once.fetch_sub(1, Ordering::SeqCst);
            Ok(token(asked.fetch_add(1, Ordering::SeqCst), NEVER))
        };
        let many = (0..50).map(|_| tokens.get(Duration::ZERO, ask));
        let got = futures_util::future::join_all(many).await;
        assert!(got.iter().all(|token| token.as_ref().unwrap().text().expose() == "token 0"));
        let first = got[0].clone().unwrap();
        // It never worked: another one would not either.
        assert!(!tokens.refused(&first));
        first.worked();
        assert!(tokens.refused(&first) && tokens.refused(&first));
        assert_eq!(tokens.get(Duration::ZERO, ask).await.unwrap().text().expose(), "token 1");
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_failure_is_remembered_and_takes_no_good_token_away() {
        let (tokens, asked) = (Tokens::default(), AtomicU32::new(0));
        let wait = Some(Duration::from_secs(7));
        let reason = "answered 503".to_owned();
        let error = TokenError { reason, is_refused: false, retry_after: wait };
        let fail = async || {
            asked.fetch_add(1, Ordering::SeqCst);
            Err(error.clone())
        };
        for _ in 0..10 {
            assert_eq!(tokens.get(Duration::ZERO, fail).await.unwrap_err(), error);
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        let good = tokens.keep(token(0, NEVER), Instant::now() - NEVER / 2, NEVER);
        assert!(good.is_due(Instant::now()));
        assert_eq!(tokens.get(NEVER, fail).await.unwrap().text(), good.text());
    }

    #[tokio::test]
    async fn a_token_that_is_doubted_is_kept_until_there_is_another_one() {
        let (tokens, asked) = (Tokens::default(), AtomicU32::new(0));
        let ask = async || {
            // The first one is a failure.
            match asked.fetch_add(1, Ordering::SeqCst) {
                0 => {
                    let reason = "answered 500".to_owned();
                    Err(TokenError { reason, is_refused: false, retry_after: None })
                }
                nth => Ok(token(nth, NEVER)),
            }
        };
        let first = tokens.keep(token(0, NEVER), Instant::now(), Duration::ZERO);
        assert!(!first.doubt(), "it never worked: another one would not either");
        assert_eq!(tokens.get(Duration::ZERO, ask).await.unwrap().text(), first.text());
        assert_eq!(asked.load(Ordering::SeqCst), 0);
        first.worked();
        assert!(first.doubt());
        assert_eq!(tokens.get(Duration::ZERO, ask).await.unwrap().text(), first.text());
        *tokens.failed.lock().unwrap() = None;
        let many = (0..10).map(|_| tokens.get(Duration::ZERO, ask));
        for got in futures_util::future::join_all(many).await {
            assert_eq!(got.unwrap().text().expose(), "token 1");
        }
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn a_short_life_is_used_for_half_of_it() {
        let (tokens, now) = (Tokens::default(), Instant::now());
        let issued = tokens.keep(token(0, Duration::from_secs(2)), now, Duration::from_secs(30));
        assert!(!issued.is_due(now + Duration::from_millis(999)));
        assert!(issued.is_due(now + Duration::from_secs(1)));
        assert!(issued.is_good(now + Duration::from_millis(1_999)));
        assert!(!issued.is_good(now + Duration::from_secs(2)));
    }
}
