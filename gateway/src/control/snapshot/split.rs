//! An alias that runs other versions beside its own: which events a canary takes, and which a shadow runs along with.

use serde::{Deserialize, Serialize};

use super::{Source, StageKind};
use crate::clock::Timestamp;
use crate::event::{EventId, Pins, PluginId, VersionHash};

/// A share of the events, in hundredths of a percent: from 1 to 10,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "u16", try_from = "u16")]
pub struct Share(u16);

/// A number that is no share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a share is from 0.01 to 100 percent, in steps of 0.01")]
pub struct NoShare;

const ALL: u16 = 10_000;

impl Share {
    /// From a percentage.
    pub fn of_percent(percent: f64) -> Result<Self, NoShare> {
        let hundredths = (percent * 100.0).round();
        if !(1.0..=f64::from(ALL)).contains(&hundredths) || (percent * 100.0 - hundredths).abs() > 1e-6 {
            return Err(NoShare);
        }
        Ok(Self(hundredths as u16))
    }

    /// As a percentage.
    pub fn percent(self) -> f64 {
        f64::from(self.0) / 100.0
    }
}

impl From<Share> for u16 {
    fn from(share: Share) -> Self {
        share.0
    }
}

impl TryFrom<u16> for Share {
    type Error = NoShare;

    fn try_from(hundredths: u16) -> Result<Self, NoShare> {
        if (1..=ALL).contains(&hundredths) { Ok(Self(hundredths)) } else { Err(NoShare) }
    }
}

/// What an alias runs beside its own version.
#[derive(Clone, Debug)]
pub struct Split {
    /// The plugin.
    pub plugin: PluginId,
    /// The alias.
    pub alias: String,
    /// Takes events from the alias' own version.
    pub canary: Option<Portion>,
    /// Runs along and is only compared.
    pub shadow: Option<Portion>,
}

/// A version with its share of the events.
#[derive(Clone, Copy, Debug)]
pub struct Portion {
    /// The version.
    pub version: VersionHash,
    /// What it does.
    pub kind: StageKind,
    /// Its share.
    pub share: Share,
    /// Since when.
    pub since: Timestamp,
}

impl Split {
    /// The version that takes an event from the alias' own, if one does. The same for the same event on every node and connection; a
    /// larger share takes what a smaller one took, and more.
    pub fn canary_for(&self, event: EventId) -> Option<VersionHash> {
        self.canary.filter(|canary| self.place(event, 0) < canary.share.0).map(|canary| canary.version)
    }

    /// What runs along with an event, if anything does.
    pub fn shadow_for(&self, event: EventId) -> Option<Portion> {
        self.shadow.filter(|shadow| self.place(event, 1) < shadow.share.0)
    }

    /// Where an event stands among all, from 0 to 9,999. Released: never changes, or events would change sides.
    fn place(&self, event: EventId, salt: u64) -> u16 {
        let halves = |id: u128| [(id >> 64) as u64, id as u64];
        let mut mixed = salt;
        for part in halves(event.0).into_iter().chain(halves(self.plugin.0)) {
            mixed = mix(mixed ^ part);
        }
        for byte in self.alias.bytes() {
            mixed = mix(mixed ^ u64::from(byte));
        }
        ((u128::from(mixed) * u128::from(ALL)) >> 64) as u16
    }
}

/// SplitMix64's finaliser (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A place in a source's pins that a canary may take.
#[derive(Clone, Debug)]
pub struct CanaryPin {
    /// Which pin.
    pub pin: usize,
    /// Which of its versions.
    pub stage: usize,
    /// Which events.
    pub split: std::sync::Arc<Split>,
}

impl Source {
    /// The versions that an event is to run.
    pub fn pins_for(&self, event: EventId) -> Pins {
        let mut pins = self.pins.clone();
        for place in &self.canaries {
            if let Some(canary) = place.split.canary_for(event) {
                pins[place.pin].versions[place.stage] = canary;
            }
        }
        pins
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(percent: f64) -> Split {
        let version = VersionHash([2; 32]);
        let share = Share::of_percent(percent).expect("a share");
        let portion = Some(Portion { version, kind: StageKind::Transform, share, since: Timestamp(0) });
        Split { plugin: PluginId(7), alias: "live".into(), canary: portion, shadow: portion }
    }

    fn events() -> impl Iterator<Item = EventId> {
        (0..20_000).map(|number| EventId::new(Timestamp(1_700_000_000_000 + number / 7), u128::from(number) << 40))
    }

    #[test]
    fn a_share_is_kept_and_grows_without_a_change_of_sides() {
        let (tenth, more) = (split(10.0), split(12.5));
        let of = |split: &Split| events().filter(|event| split.canary_for(*event).is_some()).collect::<Vec<_>>();
        let (few, many) = (of(&tenth), of(&more));
        assert!((1_850..2_150).contains(&few.len()), "{}", few.len());
        assert!((2_350..2_650).contains(&many.len()), "{}", many.len());
        assert!(few.iter().all(|event| many.contains(event)));
        assert_eq!(of(&split(100.0)).len(), 20_000);
        let both = few.iter().filter(|event| tenth.shadow_for(**event).is_some()).count();
        assert!((140..270).contains(&both), "a shadow goes by events of its own: {both}");
    }

    #[test]
    fn where_an_event_stands_never_changes() {
        let places = [1, 2, 3].map(|number| split(50.0).place(EventId(number << 70 | number), 0));
        assert_eq!(places, [1352, 4319, 1887], "released: never changes");
    }

    #[test]
    fn shares_are_hundredths_of_a_percent() {
        for (percent, hundredths) in [(0.01, 1), (0.1, 10), (33.33, 3333), (100.0, 10_000)] {
            assert_eq!(Share::of_percent(percent).map(u16::from), Ok(hundredths));
        }
        for percent in [0.0, -1.0, 0.001, 0.015, 100.01, f64::NAN, f64::INFINITY] {
            assert_eq!(Share::of_percent(percent), Err(NoShare), "{percent}");
        }
    }
}
