use super::*;
use crate::notices::notice::{NoticeData, NoticeKind, NoticeThing};

const START: Timestamp = Timestamp(1_800_000_000_000);

fn rules() -> Rules {
    let second = Duration::from_secs(1);
    Rules {
        every: second,
        quiet: 600 * second,
        hold: 60 * second,
        dead_letters: 100,
        dead_letters_window: 600 * second,
        backlog_percent: 50,
        tenant: None,
    }
}

/// An alarm that is asked every second, with all that it told.
#[derive(Default)]
struct Asked {
    alarm: Alarm,
    second: u64,
    told: Vec<(u64, Edge)>,
}

impl Asked {
    /// So many seconds of this.
    fn is(&mut self, is_so: bool, seconds: u64) {
        for _ in 0..seconds {
            let now = START.after(Duration::from_secs(self.second));
            if let Some(edge) = self.alarm.step(is_so, now, &rules()) {
                self.told.push((self.second, edge));
                self.alarm.telling(Pending { edge, at: now, notice: notice() }, now);
                self.alarm.pending = None;
            }
            self.second += 1;
        }
    }
}

fn notice() -> Notice {
    let tenant = NoticeThing { id: "ten_1".into(), name: "acme".into() };
    let data = NoticeData {
        tenant,
        destination: None,
        connection: None,
        plugin: None,
        since: START.to_string(),
        reason: None,
        measure: None,
        advice: String::new(),
    };
    Notice { kind: NoticeKind::BacklogNormal, timestamp: START.to_string(), data }
}

#[test]
fn what_begins_is_told_at_once_and_what_is_over_after_a_while() {
    let mut asked = Asked::default();
    asked.is(false, 10);
    asked.is(true, 90);
    asked.is(false, 100);
    assert_eq!(asked.told, [(10, Edge::Begun), (160, Edge::Over)]);
    assert_eq!(asked.alarm.episode, 1);
}

#[test]
fn what_comes_and_goes_is_told_once() {
    let mut asked = Asked::default();
    for _ in 0..100 {
        asked.is(true, 5);
        asked.is(false, 55);
    }
    assert_eq!(asked.told, [(0, Edge::Begun)], "it was never over for long enough");
    asked.is(false, 10);
    assert_eq!(asked.told.len(), 2);
}

#[test]
fn the_last_word_is_true_in_the_end() {
    let mut asked = Asked::default();
    asked.is(true, 10);
    asked.is(false, 100);
    asked.is(true, 1000);
    assert_eq!(asked.told, [(0, Edge::Begun), (70, Edge::Over), (600, Edge::Begun)], "it has begun again, and that is told later");
    asked.is(false, 1000);
    assert_eq!(asked.told.last(), Some(&(1170, Edge::Over)));
}

#[test]
fn nothing_is_told_more_often_than_it_may_whatever_happens() {
    let mut random = 7_u64;
    let mut asked = Asked::default();
    for _ in 0..3000 {
        // xorshift
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        asked.is(random.is_multiple_of(2), random % 97);
    }
    for kind in [Edge::Begun, Edge::Over] {
        let times: Vec<u64> = asked.told.iter().filter(|(_, edge)| *edge == kind).map(|(second, _)| *second).collect();
        assert!(times.len() > 10 && times.windows(2).all(|two| two[1] - two[0] >= 600), "{times:?}");
    }
    assert!(asked.told.windows(2).all(|two| two[0].1 != two[1].1), "it begins and ends in turn");
}

#[test]
fn it_is_forgotten_when_nothing_of_it_matters() {
    let mut asked = Asked::default();
    asked.is(true, 10);
    asked.is(false, 1000);
    let at = |second| START.after(Duration::from_secs(second));
    assert!(!asked.alarm.is_spent(at(69 + 1199), &rules()));
    assert!(asked.alarm.is_spent(at(70 + 1200), &rules()));
    let mut kept: Alarm = serde_json::from_slice(&serde_json::to_vec(&asked.alarm).expect("plain data")).expect("the same");
    assert!(!kept.is_spent(at(5000), &rules()), "one that was just read has to be looked at first");
    kept.calm(at(5000));
    assert!(kept.is_spent(at(5000), &rules()), "nor is one kept for ever that is about what is gone");
}

#[test]
fn counts_of_the_last_while_end_with_it() {
    let window = Duration::from_secs(100);
    let at = |second| START.after(Duration::from_secs(second));
    let mut recent = Recent::default();
    assert_eq!([recent.read(5, at(0), window), recent.read(5, at(50), window), recent.read(9, at(60), window)], [5, 5, 9]);
    assert_eq!(recent.since(), Some(at(0)));
    assert_eq!([recent.read(9, at(100), window), recent.read(9, at(161), window)], [4, 0]);
    assert_eq!(recent.since(), None);
}

#[test]
fn a_threshold_is_lower_for_what_is_over_it() {
    assert!(!is_over(99, 100, false) && is_over(100, 100, false));
    assert!(is_over(50, 100, true) && !is_over(49, 100, true));
    assert!(!is_over(0, 1, true) && is_over(1, 1, false));
}

/// What is told under the number of what was told before would be taken for a repeat, and dropped.
#[test]
fn what_is_taken_back_is_told_anew_under_another_number() {
    let mut asked = Asked::default();
    asked.is(true, 5);
    let now = START.after(Duration::from_secs(asked.second));
    assert!(asked.alarm.was_told());
    asked.alarm = asked.alarm.untold(now);
    assert!(!asked.alarm.was_told() && !asked.alarm.is_spent(now, &rules()));
    asked.is(true, 1);
    assert_eq!((asked.told.as_slice(), asked.alarm.episode), (&[(0, Edge::Begun), (5, Edge::Begun)][..], 2));
    let alarm = asked.alarm.untold(now);
    assert!(alarm.is_spent(now.after(2 * rules().quiet), &rules()), "it is not kept for ever");
}
