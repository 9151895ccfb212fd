//! The status page: the same text as `lbctl status`, readable from a phone at 3 a.m.

use crate::{api::render, base::status::Status};

/// One HTML document that reloads itself.
pub fn render(status: &Status) -> String {
    let title = status.instance.as_deref().unwrap_or("lbd");
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"refresh\" content=\"5\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n\
         <style>body{{font:14px ui-monospace,monospace;margin:1em;background:#fff;color:#111}}\
         @media(prefers-color-scheme:dark){{body{{background:#111;color:#ddd}}a{{color:#8cf}}}}\
         pre{{overflow-x:auto}}</style>\n</head>\n<body>\n<pre>{}</pre>\n\
         <p><a href=\"/metrics\">metrics</a> · <a href=\"/status.json\">status.json</a></p>\n\
         </body>\n</html>\n",
        escape(&render::status(status)),
        title = escape(title),
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_holds_the_status_and_escapes_it() {
        let status = Status {
            last_reload_error: Some("unknown word <script>".to_owned()),
            ..Status::default()
        };
        let html = render(&status);
        assert!(html.contains("&lt;script&gt;"), "{html}");
        assert!(!html.contains("<script>"), "{html}");
        assert_eq!(escape("a&\"b"), "a&amp;&quot;b");
    }
}
