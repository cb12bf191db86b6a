//! The GPUs and the processes as tables.

use super::order::{self, Standing};
use crate::units;
use aishim_abi::statistics::Statistic;
use aishim_observe::snapshot::Foreigner;
use aishim_observe::{Board, Gpu, Process, State, Summary};
use std::fmt::Write;
use std::time::SystemTime;

/// A column that is cut when the terminal is narrow keeps this many characters.
const FEWEST: usize = 7;

/// Longest user name shown.
const USER: usize = 8;

struct Column {
    title: &'static str,
    right: bool,
}

const fn left(title: &'static str) -> Column {
    Column { title, right: false }
}

const fn right(title: &'static str) -> Column {
    Column { title, right: true }
}

/// A line for each GPU, or one that says why there are none.
pub(super) fn gpus(page: &mut String, board: &Result<Board, String>) {
    match board {
        Ok(board) if board.gpus.is_empty() => page.push_str("No GPU on this machine.\n"),
        Ok(board) => {
            for (index, gpu) in board.gpus.iter().enumerate() {
                let _ = writeln!(page, "{}", gpu_line(index, gpu));
            }
        }
        Err(reason) => {
            let _ = writeln!(page, "GPU figures are not available: {reason}");
        }
    }
}

fn gpu_line(index: usize, gpu: &Gpu) -> String {
    let name = gpu.name.as_deref().unwrap_or("unknown");
    let uuid = gpu.uuid.as_deref().unwrap_or("no UUID");
    let utilisation = units::or_dash(gpu.utilisation_percent.map(|p| format!("{p} %")));
    let used = units::or_dash(gpu.memory_used_bytes.map(units::bytes));
    let total = units::or_dash(gpu.memory_total_bytes.map(units::bytes));
    let available = match &gpu.unavailable {
        None => "available".to_owned(),
        Some(reason) => format!("not available: {reason}"),
    };
    format!("GPU {index}: {name} ({uuid})\n       utilisation {utilisation}, memory {used} of {total}, {available}")
}

/// A row for each process, `COMMAND` cut where the terminal would wrap.
pub(super) fn processes(page: &mut String, processes: &[&Process], columns: Option<usize>) {
    const COLUMNS: &[Column] = &[
        right("PID"),
        left("USER"),
        left("COMMAND"),
        right("PRIORITY"),
        left("CLASS"),
        left("STATE"),
        right("GATED"),
        right("WEIGHT"),
        right("GPU-TIME"),
        right("LAUNCHES"),
        right("LAUNCH p50/p99"),
        right("REQUEST p50/p99"),
        right("PINNED"),
        right("DEVICE"),
    ];
    if processes.is_empty() {
        page.push_str("No process under aishim. Start one with: aictl run -- CMD\n");
        return;
    }
    let now = SystemTime::now();
    let rows: Vec<Vec<String>> = processes.iter().map(|p| row(p, now)).collect();
    lay_out(page, COLUMNS, rows, columns);
}

fn row(process: &Process, now: SystemTime) -> Vec<String> {
    let standing = Standing::of(process);
    vec![
        process.pid.to_string(),
        cut(&process.user, USER),
        process.command.clone(),
        process.priority.to_string(),
        standing.class_word(),
        state(process, now),
        units::or_dash(standing.gated_per_mille.map(|share| format!("{}.{} %", share / 10, share % 10))),
        units::or_dash(standing.weight.map(|weight| weight.to_string())),
        units::or_dash(process.gpu_time_ns().map(units::duration)),
        units::count(process.launches),
        percentiles(&process.launch),
        percentiles(&process.request),
        units::bytes(process.statistic(Statistic::PinnedBytes)),
        units::bytes(process.statistic(Statistic::DeviceBytes)),
    ]
}

/// The state in words, such as `ended 12 s ago`.
pub(crate) fn state(process: &Process, now: SystemTime) -> String {
    if let Some(gated) = order::state(process, &Standing::of(process)) {
        return gated;
    }
    let age = process.ended.map(|when| now.duration_since(when).unwrap_or_default());
    match process.state {
        State::Running => "running".to_owned(),
        State::Idle => "idle".to_owned(),
        State::Ended => format!("ended {} s ago", age.unwrap_or_default().as_secs()),
    }
}

fn percentiles(summary: &Summary) -> String {
    let figures = summary.figures.as_ref();
    let text =
        |f: &aishim_observe::summary::Figures| format!("{}/{}", units::duration(f.p50_ns), units::duration(f.p99_ns));
    units::or_dash(figures.map(text))
}

/// The processes that NVML sees and that publish nothing.
pub(super) fn foreigners(page: &mut String, foreigners: &[Foreigner], columns: Option<usize>) {
    const COLUMNS: &[Column] = &[right("PID"), left("USER"), left("COMMAND"), left("GPU"), right("MEMORY")];
    if foreigners.is_empty() {
        return;
    }
    page.push_str("\nNot under aishim:\n");
    let rows = foreigners.iter().map(|f| {
        vec![
            f.pid.to_string(),
            cut(f.user.as_deref().unwrap_or("-"), USER),
            f.command.clone().unwrap_or_else(|| "-".to_owned()),
            f.gpu_uuid.clone(),
            units::or_dash(f.gpu_memory_bytes.map(units::bytes)),
        ]
    });
    lay_out(page, COLUMNS, rows.collect(), columns);
}

/// Place of `COMMAND` in both tables.
const COMMAND: usize = 2;

fn lay_out(page: &mut String, titles: &[Column], mut rows: Vec<Vec<String>>, columns: Option<usize>) {
    if let Some(columns) = columns {
        let others: usize = (0..titles.len()).filter(|c| *c != COMMAND).map(|c| width(titles, &rows, c) + 1).sum();
        let room = columns.saturating_sub(others).max(FEWEST);
        for row in &mut rows {
            row[COMMAND] = cut(&row[COMMAND], room);
        }
    }
    let widths: Vec<usize> = (0..titles.len()).map(|c| width(titles, &rows, c)).collect();
    let head: Vec<String> = titles.iter().map(|t| t.title.to_owned()).collect();
    for row in std::iter::once(&head).chain(&rows) {
        let cells = row.iter().zip(titles).zip(&widths);
        let padded = cells.map(|((text, title), width)| pad(text, *width, title.right));
        let line = padded.collect::<Vec<_>>().join(" ");
        let _ = writeln!(page, "{}", line.trim_end());
    }
}

fn width(titles: &[Column], rows: &[Vec<String>], column: usize) -> usize {
    let texts = rows.iter().map(|r| r[column].chars().count());
    texts.max().unwrap_or(0).max(titles[column].title.len())
}

fn pad(text: &str, width: usize, right: bool) -> String {
    if right { format!("{text:>width$}") } else { format!("{text:<width$}") }
}

/// `text` in at most `room` characters, the last a plus sign where something was cut.
pub(crate) fn cut(text: &str, room: usize) -> String {
    if text.chars().count() <= room {
        return text.to_owned();
    }
    let kept: String = text.chars().take(room.saturating_sub(1)).collect();
    kept + "+"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_command_gives_way() {
        let titles = &[right("PID"), left("USER"), left("COMMAND"), right("MEMORY")];
        let row = |command: &str| vec!["12".into(), "ann".into(), command.into(), "4B".into()];
        let lines = |columns| {
            let mut page = String::new();
            lay_out(&mut page, titles, vec![row("python infer.py --all"), row("x")], columns);
            page
        };
        let narrow = "PID USER COMMAND MEMORY\n 12 ann  python+     4B\n 12 ann  x           4B\n";
        assert_eq!(lines(Some(23)), narrow);
        assert_eq!(lines(Some(10)), lines(Some(23)), "it keeps a few characters");
        assert!(lines(None).contains("python infer.py --all"));
    }

    #[test]
    fn cutting_counts_characters() {
        assert_eq!(cut("äöü", 3), "äöü");
        assert_eq!(cut("äöüß", 3), "äö+");
    }
}
