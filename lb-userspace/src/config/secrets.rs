//! Hides passwords in lines that are shown to people.

/// Words whose values are secret, with the misspellings that real files have.
const SECRET_WORDS: [&str; 5] = ["auth_pass", "password", "passwd", "pass", "key"];
/// Words near a secret one that are not secret themselves.
const OPEN_WORDS: [&str; 5] = ["PASS", "password_file", "auth_type", "active_key", "passive"];

/// Whether what follows this word on its line must not be shown. Near misses count: the value of
/// a misspelt `auth_pas` is as secret as the real one's.
pub(super) fn is_secret_word(word: &str) -> bool {
    if OPEN_WORDS.contains(&word) {
        return false;
    }
    let word = word.to_ascii_lowercase();
    SECRET_WORDS.iter().any(|secret| {
        word == *secret || (secret.len() > 4 && strsim::osa_distance(&word, secret) <= 2)
    })
}

/// The line with secrets replaced by `*`, character for character, so that carets keep their
/// place. All the rest of the line after a secret word goes, because a `!` in a password begins
/// what looks like a comment.
pub(super) fn mask(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut hide = false;
    let mut rest = line;
    while !rest.is_empty() {
        let blank = rest.len() - rest.trim_start_matches(is_separator).len();
        let (separators, after) = rest.split_at(blank);
        out.push_str(separators);
        let word_len = after.find(is_separator).unwrap_or(after.len());
        let (word, next) = after.split_at(word_len);
        if hide {
            out.extend(word.chars().map(|_| '*'));
        } else if let Some(at) = secret_definition(word) {
            let (shown, secret) = word.split_at(at);
            out.push_str(shown);
            out.extend(secret.chars().map(|_| '*'));
            hide = true;
        } else if let Some(at) = inline_secret(word) {
            let (shown, secret) = word.split_at(at);
            out.push_str(shown);
            out.extend(secret.chars().map(|_| '*'));
        } else {
            out.push_str(word);
            hide = word.len() <= 32 && is_secret_word(word);
        }
        rest = next;
    }
    out
}

/// Every word of a line replaced.
pub(super) fn mask_all(line: &str) -> String {
    line.chars().map(|c| if is_separator(c) { c } else { '*' }).collect()
}

/// A line that gives a value which is used as a password: `$NAME=VALUE`, `~LST(NAME, VALUE…)`, or
/// a line of a definition of several lines.
pub(super) fn mask_values(line: &str) -> String {
    let from = ["=", ","].iter().filter_map(|sign| line.find(sign)).min();
    match from {
        Some(at) if line.contains(['$', '~']) => {
            let (shown, hidden) = line.split_at(at + 1);
            shown.to_owned() + &mask_all(hidden)
        }
        _ => mask_all(line),
    }
}

/// Whether a secret word may stand in this part of a line, so that what follows must not be shown.
pub(super) fn may_hide(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    ["pas", "pwd", "key", "secret"].iter().any(|part| lower.contains(part))
}

/// Whether a secret word stands in this beginning of a line, so that what follows is hidden.
pub(super) fn ends_hidden(text: &str) -> bool {
    let secret = |word: &str| word.len() <= 32 && is_secret_word(word);
    let last = text.rsplit(is_separator).next().unwrap_or("");
    text.split(is_separator).any(secret) || inline_secret(&format!("{last}x")).is_some()
}

/// Whether the name of a variable says that its value is secret.
pub(super) fn is_secret_name(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    ["pass", "pwd", "secret", "key"].iter().any(|part| lower.contains(part))
}

/// Where the value begins in a word `$NAME=VALUE` of a secret name.
fn secret_definition(word: &str) -> Option<usize> {
    let (name, _) = word.strip_prefix('$')?.split_once('=')?;
    is_secret_name(name).then_some(name.len() + 2)
}

fn is_separator(c: char) -> bool {
    c.is_whitespace() || matches!(c, '{' | '}' | '"' | '\'')
}

/// Where the secret begins in a script's word: `--password=X`, and the client's `-pX`.
fn inline_secret(word: &str) -> Option<usize> {
    for prefix in ["--password=", "--pass=", "MYSQL_PWD="] {
        if word.starts_with(prefix) {
            return Some(prefix.len());
        }
    }
    (word.starts_with("-p") && word.len() > 2).then_some(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked_to_the_end_of_the_line() {
        for (line, shown) in [
            ("    auth_pass 1111 # weak", "    auth_pass **** * ****"),
            ("auth_pass Ab!c d", "auth_pass **** *"),
            ("auth_pas hunter2", "auth_pas *******"),
            (
                "authentication { auth_type PASS auth_pass x }",
                "authentication { auth_type PASS auth_pass * }",
            ),
            ("password \"s3 cret\"", "password \"** ****\""),
            ("password_file /etc/lbd/secret", "password_file /etc/lbd/secret"),
            ("script \"mysql -uroot -pgeheim -e x\"", "script \"mysql -uroot -p****** -e x\""),
            ("priority 100", "priority 100"),
            ("# password: 密码1", "# password: ***"),
            ("@main $DB_PASS=a b", "@main $DB_PASS=* *"),
            ("$PRIO=120", "$PRIO=120"),
        ] {
            assert_eq!(mask(line), shown, "{line}");
            assert_eq!(mask(line).chars().count(), line.chars().count());
        }
    }

    #[test]
    fn lines_that_give_secret_values_are_masked_but_for_their_names() {
        for (line, shown) in [
            ("  $X=hunter2 y", "  $X=******* *"),
            ("~LST(X, a, b) auth_pass $X", "~LST(X, ** ** ********* **"),
            ("hunter2 = 1", "******* * *"),
        ] {
            assert_eq!(mask_values(line), shown);
        }
        assert!(may_hide("a { auth_PASS") && !may_hide("priority 100"));
    }
}
