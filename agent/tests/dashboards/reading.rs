//! Consistent looks: units, colours of causes, heatmaps and annotations mean the same everywhere.

use std::collections::BTreeMap;

use serde_json::Value;

use super::model::{dashboards, list, text};

/// Grafana's names of the units that values here can have.
const UNITS: [&str; 5] = ["s", "percentunit", "short", "ops", "bytes"];

/// Returns the overrides of a panel's fields, by field name.
fn overrides(panel: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let fields = list(panel, "/fieldConfig/overrides").iter();
    fields.flat_map(|field| {
        let name = text(field, "/matcher/options");
        let properties = list(field, "/properties").iter();
        properties.map(move |property| (name, property))
    })
}

#[test]
fn units_are_those_of_grafana() {
    for dashboard in dashboards() {
        for panel in dashboard.panels() {
            let chosen = overrides(panel)
                .filter(|(_, property)| property["id"] == "unit")
                .map(|(_, property)| text(property, "/value"));
            let own = ["/fieldConfig/defaults/unit", "/options/yAxis/unit"]
                .map(|pointer| text(panel, pointer));
            for unit in chosen.chain(own).filter(|unit| !unit.is_empty()) {
                assert!(UNITS.contains(&unit), "{}: {unit}", dashboard.place(panel));
            }
        }
    }
}

#[test]
fn a_cause_has_one_colour_everywhere() {
    let mut colours: BTreeMap<String, String> = BTreeMap::new();
    let mut split = 0;
    for dashboard in dashboards() {
        for panel in dashboard.panels() {
            let legends = list(panel, "/targets").iter();
            if legends
                .map(|target| text(target, "/legendFormat"))
                .all(|legend| !legend.starts_with("{{cause}}"))
            {
                continue;
            }
            split += 1;
            for (name, property) in overrides(panel).filter(|(_, p)| p["id"] == "color") {
                let cause = name.trim_end_matches(" (in its own time)").to_owned();
                let colour = text(property, "/value/fixedColor").to_owned();
                let before = colours.entry(cause).or_insert_with(|| colour.clone());
                assert_eq!(*before, colour, "{}: {name}", dashboard.place(panel));
            }
        }
    }
    assert!(split >= 4, "{split} panels by cause");
    assert_eq!(colours.len(), 13, "{colours:?}");
}

#[test]
fn heatmaps_are_of_rates_by_bound() {
    let mut seen = 0;
    for dashboard in dashboards() {
        let panels = dashboard.panels();
        for panel in panels.iter().filter(|panel| panel["type"] == "heatmap") {
            let place = dashboard.place(panel);
            assert_eq!(panel["options"]["calculate"], false, "{place}");
            for target in list(panel, "/targets") {
                seen += 1;
                assert_eq!(target["format"], "heatmap", "{place}");
                assert_eq!(target["legendFormat"], "{{le}}", "{place}");
                let expr = text(target, "/expr");
                assert!(expr.starts_with("sum by (le) (rate("), "{place}: {expr}");
            }
        }
    }
    assert!(seen >= 4, "{seen} heatmaps");
}

#[test]
fn marks_say_which_pod_and_are_set_on_the_page() {
    let spike = dashboards()
        .into_iter()
        .find(|dashboard| dashboard.file == "checkpoint-spike.json")
        .expect("the page of spikes");
    assert_eq!(spike.annotations().len(), 1);
    let mark = &spike.annotations()[0];
    assert_eq!(mark["enable"], true);
    assert!(text(mark, "/expr").ends_with(" > $mark"), "{mark}");
    let drawn = spike.queries();
    let same = drawn
        .iter()
        .filter(|query| query.expr == text(mark, "/expr"));
    assert_eq!(same.count(), 2, "a panel shows what is marked");
}
