//! Access as snapshots carry it. Whatever has a member that is not known here cannot be read, and its entry is refused
//! whole: nobody passes.

use serde::Deserialize;

use super::PopPlace;
use super::schedule::Schedule;

/// `Access` of `drtp.api.snapshots`, as it comes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessSpec {
    #[serde(default)]
    pub(super) lists: Vec<ListSpec>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(super) struct ListSpec {
    pub(super) default: Action,
    pub(super) rules: Vec<RuleSpec>,
    pub(super) clauses: Vec<ClauseSpec>,
    pub(super) otherwise: Action,
    pub(super) dry_run: bool,
}

impl Default for ListSpec {
    fn default() -> Self {
        let (default, otherwise) = (Action::Deny, Action::Deny);
        Self { default, rules: Vec::new(), clauses: Vec::new(), otherwise, dry_run: false }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RuleSpec {
    pub(super) action: Action,
    #[serde(default)]
    pub(super) cidrs: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClauseSpec {
    pub(super) action: Action,
    #[serde(default)]
    pub(super) cidrs: Vec<String>,
    #[serde(default)]
    pub(super) countries: Vec<String>,
    #[serde(default)]
    pub(super) organizations: Vec<String>,
    #[serde(default)]
    pub(super) principals: Vec<String>,
    #[serde(default)]
    pub(super) schedule: Option<Schedule>,
    #[serde(default)]
    pub(super) through: Option<Through>,
}

impl From<RuleSpec> for ClauseSpec {
    fn from(rule: RuleSpec) -> Self {
        let RuleSpec { action, cidrs } = rule;
        let (countries, organizations, principals) = (Vec::new(), Vec::new(), Vec::new());
        Self { action, cidrs, countries, organizations, principals, schedule: None, through: None }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Through {
    pops: Vec<String>,
    regions: Vec<String>,
    pub(super) countries: Vec<String>,
}

impl Through {
    pub(super) fn carries(&self, place: Option<&PopPlace>) -> Option<bool> {
        let parts = [
            (place.and_then(|place| place.pop.as_ref()), &self.pops),
            (place.and_then(|place| place.region.as_ref()), &self.regions),
            (place.and_then(|place| place.country.as_ref()), &self.countries),
        ];
        let mut unknown = false;
        for (own, wanted) in parts.into_iter().filter(|(_, wanted)| !wanted.is_empty()) {
            match own {
                Some(own) if !wanted.contains(own) => return Some(false),
                Some(_) => {}
                None => unknown = true,
            }
        }
        (!unknown).then_some(true)
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(super) enum Action {
    Allow,
    #[default]
    Deny,
}
