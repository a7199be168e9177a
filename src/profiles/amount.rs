//! Amounts as third parties want them. Whole numbers and text all the way, never a float.

use std::collections::BTreeMap;

use iso_currency::Currency;

/// Most digits behind the point that a profile may say.
pub(super) const MAX_EXPONENT: u8 = 6;

/// Why an amount cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    #[error("{0} has no minor unit in ISO 4217: name its digits under `exponents`")]
    NoExponent(String),
    #[error("{amount} {currency} in minor units cannot be written with {exponent} digits")]
    TooFine { amount: i64, currency: String, exponent: u8 },
    #[error("{amount} {currency} in minor units is too large with {exponent} digits")]
    TooLarge { amount: i64, currency: String, exponent: u8 },
}

/// How many digits a third party gives to a currency, where that is not what ISO 4217 says.
pub(super) type Exponents = BTreeMap<String, u8>;

/// `amount` in the third party's minor units. Ours are those of ISO 4217.
pub(super) fn minor(
    amount: i64,
    currency: Option<&str>,
    theirs: &Exponents,
) -> Result<i64, AmountError> {
    let Some((currency, exponent)) = currency.and_then(|code| Some((code, *theirs.get(code)?)))
    else {
        return Ok(amount);
    };
    rescale(amount, currency, iso(currency)?, exponent)
}

/// `amount` in major units, such as `12.50`.
pub(super) fn decimal(
    amount: i64,
    currency: &str,
    theirs: &Exponents,
) -> Result<String, AmountError> {
    let exponent = match theirs.get(currency) {
        Some(exponent) => *exponent,
        None => iso(currency)?,
    };
    let amount = minor(amount, Some(currency), theirs)?;
    let sign = if amount < 0 { "-" } else { "" };
    let digits = usize::from(exponent);
    let all = format!("{:0>width$}", amount.unsigned_abs(), width = digits + 1);
    let (whole, rest) = all.split_at(all.len() - digits);
    let point = if digits == 0 { "" } else { "." };
    Ok(format!("{sign}{whole}{point}{rest}"))
}

fn iso(currency: &str) -> Result<u8, AmountError> {
    let exponent = Currency::from_code(currency).and_then(Currency::exponent);
    exponent
        .and_then(|exponent| u8::try_from(exponent).ok())
        .ok_or_else(|| AmountError::NoExponent(currency.to_owned()))
}

fn rescale(amount: i64, currency: &str, from: u8, to: u8) -> Result<i64, AmountError> {
    let factor = 10_i64.pow(u32::from(from.abs_diff(to)));
    let currency = currency.to_owned();
    if to >= from {
        let scaled = amount.checked_mul(factor);
        return scaled.ok_or(AmountError::TooLarge { amount, currency, exponent: to });
    }
    if amount % factor == 0 {
        Ok(amount / factor)
    } else {
        Err(AmountError::TooFine { amount, currency, exponent: to })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_follow_iso_4217() {
        for (amount, currency, text) in [
            (1250, "EUR", "12.50"),
            (5, "EUR", "0.05"),
            (0, "EUR", "0.00"),
            (1250, "XOF", "1250"),
            (1250, "JPY", "1250"),
            (1250, "KWD", "1.250"),
            (1, "CLF", "0.0001"),
            (1250, "MRU", "12.50"),
            (i64::MAX, "EUR", "92233720368547758.07"),
        ] {
            let found = decimal(amount, currency, &Exponents::new());
            assert_eq!(found.as_deref(), Ok(text), "{amount} {currency}");
        }
        for currency in ["XAU", "ABC"] {
            assert!(decimal(1, currency, &Exponents::new()).is_err());
            assert_eq!(minor(1, Some(currency), &Exponents::new()), Ok(1));
        }
    }

    #[test]
    fn a_third_party_with_other_digits_is_sent_the_same_money() {
        let theirs = Exponents::from([("ISK".to_owned(), 2), ("KWD".to_owned(), 2)]);
        assert_eq!(minor(1250, Some("ISK"), &theirs), Ok(125_000));
        assert_eq!(decimal(1250, "ISK", &theirs).as_deref(), Ok("1250.00"));
        assert_eq!(minor(1250, Some("KWD"), &theirs), Ok(125));
        assert_eq!(decimal(1250, "KWD", &theirs).as_deref(), Ok("1.25"));
        assert!(matches!(minor(1255, Some("KWD"), &theirs), Err(AmountError::TooFine { .. })));
        assert!(matches!(minor(i64::MAX, Some("ISK"), &theirs), Err(AmountError::TooLarge { .. })));
        assert_eq!(minor(1250, Some("EUR"), &theirs), Ok(1250));
        assert_eq!(minor(1250, None, &theirs), Ok(1250));
    }
}
