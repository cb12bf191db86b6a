//! Patterns of rules: `*` stands for any characters, `?` for any one, everything else for itself.

/// A pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(Vec<char>);

impl Glob {
    /// That pattern; any text is one.
    #[must_use]
    pub fn new(pattern: &str) -> Self {
        Self(pattern.chars().collect())
    }

    /// Whether all of `text` fits. Takes no longer than pattern times text, whatever either is: commands are written by anybody.
    #[must_use]
    pub fn fits(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        let (mut at, mut place) = (0, 0);
        // The last star, and where the text goes on behind what it stands for.
        let mut star: Option<(usize, usize)> = None;
        while at < text.len() {
            match self.0.get(place) {
                Some('*') => {
                    star = Some((place, at));
                    place += 1;
                }
                Some(one) if *one == '?' || Some(one) == text.get(at) => {
                    at += 1;
                    place += 1;
                }
                _ => {
                    let Some((its_place, its_end)) = star else { return false };
                    star = Some((its_place, its_end + 1));
                    (place, at) = (its_place + 1, its_end + 1);
                }
            }
        }
        self.0.iter().skip(place).all(|one| *one == '*')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks() {
        let fits = |pattern, text| Glob::new(pattern).fits(text);
        assert!(fits("", "") && fits("*", "") && fits("**", "ab") && fits("a?c", "aäc"));
        assert!(fits("*train*", "python train.py --x") && fits("/slurm/*", "/slurm/uid_1/job_2"));
        assert!(fits("a*b*c", "aXbXbXc") && fits("*b", "abab"));
        assert!(!fits("", "a") && !fits("a", "") && !fits("a?c", "ac") && !fits("python", "python3"));
        assert!(!fits("a*b", "abc") && !fits("*aab", "aaaac"));
    }

    #[test]
    fn a_pattern_of_many_stars_takes_no_time() {
        let text = "a".repeat(4_000);
        assert!(Glob::new(&"a*".repeat(200)).fits(&text));
        assert!(!Glob::new(&("*a".repeat(200) + "b")).fits(&text));
    }
}
