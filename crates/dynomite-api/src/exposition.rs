//! From `OpenMetrics`, as the metrics library writes it, to the text format that every tool reads.
//!
//! The two differ in how a counter is named: `OpenMetrics` describes `requests`
//! and counts `requests_total`, the older format describes what it counts. A
//! linter that knows only the older one finds counters without a description.

/// The content type of what [`classic`] gives.
pub const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The same metrics in the text format of Prometheus, version 0.0.4.
pub fn classic(open_metrics: &str) -> String {
    let mut out = String::with_capacity(open_metrics.len());
    let counters: Vec<&str> = open_metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    for line in open_metrics.lines() {
        if line.starts_with("# UNIT ") || line == "# EOF" {
            continue;
        }
        let described = ["# HELP ", "# TYPE "]
            .into_iter()
            .find_map(|word| Some((word, line.strip_prefix(word)?.split_once(' ')?)));
        match described {
            Some((word, (name, rest))) if counters.contains(&name) => {
                out.extend([word, name, "_total ", rest, "\n"]);
            }
            _ => out.extend([line, "\n"]),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_described_by_the_name_they_are_counted_under() {
        let open = "# HELP a_seconds Time.\n# TYPE a_seconds counter\n# UNIT a_seconds seconds\n\
                    a_seconds_total{x=\"1\"} 2\n# HELP b Things.\n# TYPE b gauge\nb 1\n# EOF\n";
        let expected = "# HELP a_seconds_total Time.\n# TYPE a_seconds_total counter\n\
                        a_seconds_total{x=\"1\"} 2\n# HELP b Things.\n# TYPE b gauge\nb 1\n";
        assert_eq!(classic(open), expected);
    }
}
