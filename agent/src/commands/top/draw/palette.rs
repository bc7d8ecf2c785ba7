//! Palette of causes: a colour of the terminal's own, or a letter without colours.

use ratatui::{style::Color, text::Span};

/// Colour and letter of a cause.
pub(super) struct Look {
    colour: Color,
    letter: &'static str,
}

/// Returns the look of a cause; unknown causes, of a newer agent, are white.
pub(super) fn look(cause: &str) -> Look {
    let (colour, letter) = match cause {
        "own" => (Color::Blue, "o"),
        "neighbour" => (Color::Yellow, "n"),
        "host" => (Color::Magenta, "h"),
        "kernel" => (Color::Cyan, "k"),
        "kswapd" => (Color::Green, "s"),
        "kcompactd" => (Color::LightGreen, "c"),
        "khugepaged" => (Color::LightCyan, "g"),
        "throttled" => (Color::Red, "t"),
        "idle" => (Color::DarkGray, "i"),
        "unattributed" => (Color::Gray, "u"),
        "direct_reclaim" => (Color::LightMagenta, "d"),
        "memcg_reclaim" => (Color::LightRed, "m"),
        "compaction" => (Color::LightYellow, "p"),
        _ => (Color::White, "?"),
    };
    Look { colour, letter }
}

impl Look {
    /// Returns `count` cells of a bar.
    pub(super) fn cells(&self, count: usize, colour: bool) -> Span<'static> {
        if colour {
            Span::styled("█".repeat(count), self.colour)
        } else {
            Span::raw(self.letter.repeat(count))
        }
    }

    /// Returns the style with the cause's colour, if colours are used.
    pub(super) fn style(&self, colour: bool) -> ratatui::style::Style {
        let style = ratatui::style::Style::new();
        if colour { style.fg(self.colour) } else { style }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::top::sort::causes;

    #[test]
    fn every_cause_looks_different() {
        let looks: Vec<_> = causes().map(look).collect();
        for (at, look) in looks.iter().enumerate() {
            let same = |other: &Look| other.colour == look.colour || other.letter == look.letter;
            assert!(!looks[at + 1..].iter().any(same), "{}", look.letter);
            assert_ne!(look.letter, "?");
        }
    }
}
