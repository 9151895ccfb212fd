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
        ] {
            assert_eq!(mask(line), shown, "{line}");
            assert_eq!(mask(line).chars().count(), line.chars().count());
        }
    }
}
