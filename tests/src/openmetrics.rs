//! A strict reader of OpenMetrics text (OpenMetrics 1.0, "Text format"): what Prometheus would
//! refuse is an error here.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail, ensure};

/// One metric family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Family {
    pub kind: String,
    pub help: String,
}

/// A scrape that was read whole.
#[derive(Clone, Debug, Default)]
pub struct Scrape {
    pub families: BTreeMap<String, Family>,
    /// By the sample's name and labels as written.
    pub samples: BTreeMap<String, f64>,
}

/// Reads a scrape.
///
/// # Errors
/// At the first line that breaks the format: a family without HELP or TYPE or told twice, samples
/// outside their family or with a suffix of another type, names, labels, escapes or numbers that
/// are none, a sample or label twice, buckets that fall, no end mark.
pub fn read(text: &str) -> Result<Scrape> {
    let body = text.strip_suffix("# EOF\n").context("the end mark is missing")?;
    let mut scrape = Scrape::default();
    let mut current = String::new();
    for line in body.lines() {
        read_line(line, &mut current, &mut scrape).with_context(|| format!("line `{line}`"))?;
    }
    for (name, family) in &scrape.families {
        ensure!(!family.kind.is_empty(), "{name} has no TYPE");
        ensure!(!family.help.is_empty(), "{name} has no HELP");
        if family.kind == "histogram" {
            buckets(name, &scrape.samples).with_context(|| format!("histogram {name}"))?;
        }
    }
    Ok(scrape)
}

fn read_line(line: &str, current: &mut String, scrape: &mut Scrape) -> Result<()> {
    if let Some(meta) = line.strip_prefix("# ") {
        let (word, rest) = meta.split_once(' ').context("no word")?;
        let (name, value) = rest.split_once(' ').context("no value")?;
        ensure!(is_name(name), "`{name}` is no name");
        if name != current {
            ensure!(!scrape.families.contains_key(name), "{name} in two places");
            name.clone_into(current);
        }
        ensure!(
            !scrape.samples.keys().any(|sample| belongs(sample, name)),
            "{name}: told after its samples"
        );
        let family = scrape.families.entry(name.to_owned()).or_default();
        let field = match word {
            "TYPE" if matches!(value, "gauge" | "counter" | "histogram") => &mut family.kind,
            "HELP" => &mut family.help,
            "UNIT" => return Ok(()),
            other => bail!("{other} {value} is not expected"),
        };
        ensure!(field.is_empty(), "{word} twice");
        value.clone_into(field);
        return Ok(());
    }
    let (series, value) = line.rsplit_once(' ').context("no value")?;
    let (name, labels) = match series.split_once('{') {
        Some((name, rest)) => (name, rest.strip_suffix('}').context("labels are not closed")?),
        None => (series, ""),
    };
    let family = scrape.families.get(current).context("no family yet")?;
    let suffix = name.strip_prefix(current.as_str()).context("a sample of another family")?;
    let allowed: &[&str] = match family.kind.as_str() {
        "counter" => &["_total"],
        "histogram" => &["_bucket", "_sum", "_count"],
        _ => &[""],
    };
    ensure!(allowed.contains(&suffix), "`{suffix}` is no sample of a {}", family.kind);
    let names = label_names(labels)?;
    ensure!((suffix == "_bucket") == names.contains("le"), "`le` belongs to buckets");
    let value: f64 = value.parse().context("no number")?;
    ensure!(value.is_finite() && (family.kind == "gauge" || value >= 0.0), "{value}");
    ensure!(scrape.samples.insert(series.to_owned(), value).is_none(), "twice");
    Ok(())
}

fn belongs(sample: &str, family: &str) -> bool {
    let name = sample.split('{').next().unwrap_or_default();
    let suffix = name.strip_prefix(family);
    suffix.is_some_and(|it| matches!(it, "" | "_total" | "_bucket" | "_sum" | "_count"))
}

fn is_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// `a="x",b="y"`, each name once.
fn label_names(mut labels: &str) -> Result<BTreeSet<&str>> {
    let mut names = BTreeSet::new();
    while !labels.is_empty() {
        let (name, rest) = labels.split_once("=\"").context("a label without value")?;
        ensure!(is_name(name), "`{name}` is no label");
        ensure!(names.insert(name), "label {name} twice");
        let mut escaped = false;
        let end = rest.find(|c| {
            let end = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            end
        });
        let end = end.context("a label that does not end")?;
        let rest = rest.get(end + 1..).unwrap_or_default();
        labels = match rest.strip_prefix(',') {
            Some(more) if !more.is_empty() => more,
            None if rest.is_empty() => "",
            _ => bail!("after label {name}: `{rest}`"),
        };
    }
    Ok(names)
}

/// Buckets of each series grow to the count, and the last one has no bound.
fn buckets(name: &str, samples: &BTreeMap<String, f64>) -> Result<()> {
    let mut series: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for (sample, count) in samples {
        let Some(labels) = sample.strip_prefix(&format!("{name}_bucket")) else { continue };
        let (before, rest) = labels.split_once("le=\"").context("no le")?;
        let (bound, after) = rest.split_once('"').context("no bound")?;
        let bound = bound.parse().context("no bound")?;
        let key = format!("{before}{}", after.strip_prefix(',').unwrap_or(after));
        series.entry(key).or_default().push((bound, *count));
    }
    for (labels, mut buckets) in series {
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        ensure!(buckets.is_sorted_by(|a, b| a.1 <= b.1), "{labels} falls: {buckets:?}");
        let (bound, last) = buckets.last().copied().context("no bucket")?;
        ensure!(bound.is_infinite(), "{labels}: the last bucket has a bound");
        let count = samples.get(&if labels == "{}" {
            format!("{name}_count")
        } else {
            format!("{name}_count{labels}")
        });
        ensure!(count == Some(&last), "{labels}: count {count:?}, last bucket {last}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# HELP a A.\n# TYPE a gauge\na{x=\"1\",y=\"\\\"}\"} -1\n\
                        # HELP b B.\n# TYPE b counter\nb_total 2\n\
                        # HELP h H.\n# TYPE h histogram\nh_sum 1.5\nh_count 3\n\
                        h_bucket{le=\"0.1\"} 1\nh_bucket{le=\"+Inf\"} 3\n# EOF\n";

    #[test]
    fn a_good_scrape_is_read() {
        let scrape = read(GOOD).expect("good");
        assert_eq!(scrape.families.len(), 3);
        assert_eq!(scrape.samples.get("b_total"), Some(&2.0));
        assert_eq!(scrape.samples.len(), 6);
    }

    #[test]
    fn what_prometheus_refuses_is_refused() {
        for (from, to) in [
            ("# EOF\n", ""),
            ("# HELP a A.\n", ""),
            ("# TYPE b counter\n", ""),
            ("b_total 2\n", "b_total 2\nb_total 2\n"),
            ("b_total 2\n", "b 2\n"),
            ("b_total 2\n", "b_total -2\n"),
            ("b_total 2\n", "c_total 2\n"),
            ("b_total 2\n", "b_total two\n"),
            ("b_total 2\n", "b_total{} NaN\n"),
            ("x=\"1\",y", "x=\"1\",x"),
            ("x=\"1\",y", "x=\"1\"y"),
            ("x=\"1\",y", "1x=\"1\",y"),
            ("# HELP b B.\n", "# HELP b B.\n# HELP b B.\n"),
            ("# HELP h", "# HELP a A.\n# TYPE a gauge\n# HELP h"),
            ("le=\"+Inf\"} 3", "le=\"+Inf\"} 0"),
            ("le=\"+Inf\"} 3", "le=\"5\"} 3"),
            ("h_count 3", "h_count 4"),
        ] {
            let bad = GOOD.replace(from, to);
            assert_ne!(bad, GOOD, "{from}");
            assert!(read(&bad).is_err(), "{from} → {to}");
        }
    }
}
