//! From text to a [`Trace`], or the line that cannot be one.

use std::{error::Error, fmt, str::FromStr};

use super::trace::{Arrivals, MAGIC, Request, Trace, Workload};
use crate::policy::{JobId, Priority, Weight};

/// A kernel or launch of a trace may be repeated so often; a typing error must not take all memory.
const MOST_REPEATED: usize = 100_000;
/// Ten hours. Times are added up.
const MOST_NS: u64 = 36_000_000_000_000;

/// Text that is no trace.
#[derive(Debug, PartialEq, Eq)]
pub struct BadTrace {
    /// From 1.
    pub line: usize,
    /// What is wrong with it.
    pub why: String,
}

impl fmt::Display for BadTrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.why)
    }
}

impl Error for BadTrace {}

impl FromStr for Trace {
    type Err = BadTrace;

    fn from_str(text: &str) -> Result<Self, BadTrace> {
        let mut trace = Self { about: String::new(), length_ns: 0, requests: Vec::new(), clients: Vec::new() };
        if text.lines().next() != Some(MAGIC) {
            return Err(BadTrace { line: 1, why: format!("not {MAGIC:?}") });
        }
        for (index, line) in text.lines().enumerate().skip(1) {
            add_line(&mut trace, line).map_err(|why| BadTrace { line: index + 1, why })?;
        }
        if trace.length_ns == 0 {
            return Err(BadTrace { line: 1, why: "no length_ns".into() });
        }
        Ok(trace)
    }
}

fn add_line(trace: &mut Trace, line: &str) -> Result<(), String> {
    let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
    let mut words = Words(rest.split_ascii_whitespace());
    match kind {
        "about" => trace.about = rest.into(),
        "length_ns" => trace.length_ns = time_ns(words.next()?)?,
        "request" => trace.requests.push(request(words)?),
        "client" => trace.clients.push(client(&trace.requests, words)?),
        "" => (),
        _ if kind.starts_with('#') => (),
        _ => return Err(format!("{kind:?}")),
    }
    Ok(())
}

struct Words<'a>(std::str::SplitAsciiWhitespace<'a>);

impl<'a> Words<'a> {
    fn next(&mut self) -> Result<&'a str, String> {
        self.0.next().ok_or_else(|| "ends too early".into())
    }

    fn expect(&mut self, word: &str) -> Result<(), String> {
        let found = self.next()?;
        if found == word { Ok(()) } else { Err(format!("{found:?} where {word:?} is expected")) }
    }

    /// The word after this one.
    fn after(&mut self, word: &str) -> Result<&'a str, String> {
        self.expect(word)?;
        self.next()
    }
}

fn request(mut words: Words<'_>) -> Result<Request, String> {
    let name = words.next()?.to_owned();
    let launch_ns = time_ns(words.after("launch_ns")?)?;
    words.expect("launches")?;
    let mut launches: Vec<Vec<u64>> = Vec::new();
    let mut graph: Option<Vec<u64>> = None;
    for word in words.0 {
        match (word, &mut graph) {
            ("[", None) => graph = Some(Vec::new()),
            ("]", Some(kernels)) if !kernels.is_empty() => launches.extend(graph.take()),
            (_, Some(kernels)) => kernels.extend(repeated(word)?),
            (_, None) => launches.extend(repeated(word)?.map(|kernel_ns| vec![kernel_ns])),
        }
    }
    match graph {
        None if launches.is_empty() => Err("a request without launches".into()),
        None => Ok(Request { name, launch_ns, launches }),
        Some(_) => Err("a bracket is not closed".into()),
    }
}

/// `9000`, or `12x9000` for twelve of them.
fn repeated(word: &str) -> Result<impl Iterator<Item = u64>, String> {
    let (count, kernel) = word.split_once('x').unwrap_or(("1", word));
    let count: usize = number(count)?;
    let kernel_ns = time_ns(kernel)?;
    if !(1..=MOST_REPEATED).contains(&count) || kernel_ns == 0 {
        return Err(format!("{word:?}"));
    }
    Ok(std::iter::repeat_n(kernel_ns, count))
}

fn client(requests: &[Request], mut words: Words<'_>) -> Result<Workload, String> {
    let name = words.next()?.to_owned();
    let class = words.after("class")?.to_owned();
    let priority = Priority::new(number(words.after("priority")?)?).ok_or("a priority above 100")?;
    let weight = Weight::new(number(words.after("weight")?)?).ok_or("a weight that is not from 1 to 10,000")?;
    let mut word = words.next()?;
    let mut job = None;
    if word == "job" {
        job = Some(JobId(number(words.next()?)?));
        word = words.next()?;
    }
    if word != "request" {
        return Err(format!("{word:?} where \"request\" is expected"));
    }
    let of = words.next()?;
    let request = requests.iter().position(|known| known.name == of).ok_or_else(|| format!("no request {of:?}"))?;
    Ok(Workload { name, class, priority, weight, job, request, arrivals: arrivals(words)? })
}

fn arrivals(mut words: Words<'_>) -> Result<Arrivals, String> {
    match words.next()? {
        "at_ns" => {
            let mut at_ns = 0u64;
            let gap = |word: &str| {
                at_ns = at_ns.saturating_add(time_ns(word.strip_prefix('+').unwrap_or(word))?);
                if at_ns > MOST_NS { Err("after more than ten hours".into()) } else { Ok(at_ns) }
            };
            words.0.map(gap).collect::<Result<_, String>>().map(Arrivals::At)
        }
        "loop_from_ns" => {
            let from_ns = time_ns(words.next()?)?;
            Ok(Arrivals::Loop { from_ns, think_ns: time_ns(words.after("think_ns")?)? })
        }
        word => Err(format!("{word:?} where \"at_ns\" or \"loop_from_ns\" is expected")),
    }
}

fn time_ns(word: &str) -> Result<u64, String> {
    number(word).and_then(|ns| if ns > MOST_NS { Err(format!("{word} ns are more than ten hours")) } else { Ok(ns) })
}

fn number<T: FromStr>(word: &str) -> Result<T, String> {
    word.parse().map_err(|_| format!("{word:?} where a number is expected"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "aishim-sched-trace 1
about by hand
length_ns 1000000
request a launch_ns 3400 launches 6000 3x9000 [ 2x10000 7000 ] [ 5000 2x6000 ]
request b launch_ns 0 launches [ 2x1 ] 2x1
client one class inference priority 80 weight 100 request a at_ns +5 +10
client two class batch priority 5 weight 1 job 7 request b loop_from_ns 9 think_ns 2
";

    #[test]
    fn what_is_written_is_read() {
        let trace: Trace = GOOD.parse().unwrap();
        assert_eq!(trace.to_string(), GOOD);
        assert_eq!(trace.requests[0].launches.len(), 6);
        assert_eq!(trace.requests[0].gpu_ns(), 6_000 + 27_000 + 27_000 + 17_000);
        assert_eq!(trace.clients[0].arrivals, Arrivals::At(vec![5, 15]));
        assert_eq!(trace.clients[1].job, Some(JobId(7)));
    }

    #[test]
    fn a_bad_line_is_named() {
        let bad = [
            (4, "launches 6000", "launches 6000 [ 5"),
            (4, "3x9000", "0x9000"),
            (4, "3x9000", "999999999x9000"),
            (4, "6000 ", "x "),
            (5, "request b", "requests b"),
            (6, "priority 80", "priority 101"),
            (6, "request a", "request c"),
            (6, "+10", "-10"),
            (6, "+10", "+18446744073709551615"),
            (7, "weight 1 job", "weight 0 job"),
            (7, " think_ns 2", ""),
            (1, "trace 1", "trace 2"),
            (1, "length_ns 1000000", "# none"),
        ];
        for (line, from, to) in bad {
            let text = GOOD.replacen(from, to, 1);
            assert_eq!(text.parse::<Trace>().map_err(|bad| bad.line), Err(line), "{to:?}");
        }
    }
}
