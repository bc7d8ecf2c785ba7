//! Files that users or sidecars import into Grafana, and panels that say how to read them.

use std::collections::BTreeSet;

use serde_json::Value;

use super::model::{dashboards, list, references, text};

/// Schema version of Grafana 10.4, the oldest supported one.
const SCHEMA: u64 = 39;

#[test]
fn files_can_be_imported_as_they_are() {
    let mut uids = BTreeSet::new();
    for dashboard in dashboards() {
        let (file, json) = (&dashboard.file, &dashboard.json);
        let name = file.trim_end_matches(".json");
        assert_eq!(text(json, "/uid"), format!("stallscope-{name}"), "{file}");
        assert!(
            uids.insert(text(json, "/uid").to_owned()),
            "{file}: uid twice"
        );
        for asked in ["id", "__inputs", "__requires", "__elements"] {
            assert!(
                json.get(asked).is_none(),
                "{file}: {asked} is for one Grafana"
            );
        }
        assert!(
            json["schemaVersion"].as_u64() >= Some(SCHEMA),
            "{file}: schemaVersion"
        );
        assert!(text(json, "/title").starts_with("Stallscope / "), "{file}");
        assert!(!text(json, "/description").is_empty(), "{file}");
        assert!(
            list(json, "/tags").contains(&"stallscope".into()),
            "{file}: links go by the tag"
        );
        assert!(
            list(json, "/links").iter().any(|link| {
                link["keepTime"] == true
                    && link["includeVars"] == true
                    && list(link, "/tags").contains(&"stallscope".into())
            }),
            "{file}: no links to the others with time and selection"
        );
    }
}

#[test]
fn data_come_from_the_chosen_source_only() {
    for dashboard in dashboards() {
        let mut sources = Vec::new();
        values_of("datasource", &dashboard.json, &mut sources);
        assert!(!sources.is_empty());
        for source in sources {
            assert_eq!(
                text(source, "/uid"),
                "${datasource}",
                "{}: {source}",
                dashboard.file
            );
            assert_eq!(source["type"], "prometheus", "{}", dashboard.file);
        }
        for panel in dashboard.panels() {
            let asks = !list(panel, "/targets").is_empty();
            let place = dashboard.place(panel);
            assert_eq!(asks, panel.get("datasource").is_some(), "{place}");
            for target in list(panel, "/targets") {
                assert!(target.get("datasource").is_some(), "{place}");
            }
        }
    }
}

/// Collects the values of a key, at any depth.
fn values_of<'a>(key: &str, json: &'a Value, found: &mut Vec<&'a Value>) {
    match json {
        Value::Object(fields) => {
            for (name, value) in fields {
                if name == key {
                    found.push(value);
                }
                values_of(key, value, found);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| values_of(key, value, found)),
        _ => {}
    }
}

#[test]
fn variables_are_defined_once_and_used() {
    let required = [
        "datasource",
        "cluster",
        "host",
        "namespace",
        "pod",
        "container",
    ];
    for dashboard in dashboards() {
        let file = &dashboard.file;
        let names: Vec<&str> = dashboard
            .variables()
            .iter()
            .map(|v| text(v, "/name"))
            .collect();
        let defined: BTreeSet<&str> = names.iter().copied().collect();
        assert_eq!(defined.len(), names.len(), "{file}: {names:?}");
        for name in required {
            assert!(defined.contains(name), "{file}: no variable {name}");
        }
        let whole = dashboard.json.to_string();
        for name in references(&whole) {
            let known = name.starts_with("__") || defined.contains(name);
            assert!(known, "{file}: ${name} is not defined");
        }
        let panels = dashboard.json["panels"].to_string();
        for name in defined {
            assert!(
                references(&panels).contains(name),
                "{file}: no panel uses ${name}"
            );
        }
    }
}

#[test]
fn a_variable_for_everything_takes_what_has_no_such_label() {
    for dashboard in dashboards() {
        for variable in dashboard.variables() {
            if variable["includeAll"] == true {
                let name = text(variable, "/name");
                assert_eq!(
                    text(variable, "/allValue"),
                    ".*",
                    "{}: {name}",
                    dashboard.file
                );
            }
        }
    }
}

#[test]
fn every_panel_says_how_it_is_read_and_in_which_unit() {
    for dashboard in dashboards() {
        let mut ids = BTreeSet::new();
        let mut titles = BTreeSet::new();
        for panel in dashboard.panels() {
            let place = dashboard.place(panel);
            assert!(
                ids.insert(panel["id"].as_u64().expect("an id")),
                "{place}: id twice"
            );
            assert!(!text(panel, "/title").is_empty(), "{place}: no title");
            assert!(titles.insert(text(panel, "/title")), "{place}: title twice");
            if panel["type"] == "row" {
                continue;
            }
            let description = text(panel, "/description");
            let least = if panel["type"] == "text" { 20 } else { 80 };
            assert!(description.len() >= least, "{place}: {description:?}");
            assert!(description.ends_with('.'), "{place}: {description:?}");
            assert!(
                panel["type"] == "text" || has_unit(panel),
                "{place}: no unit"
            );
        }
    }
}

/// Returns whether a panel's values have a unit, or the panel shows none.
fn has_unit(panel: &Value) -> bool {
    if panel["type"] == "heatmap" {
        return !text(panel, "/options/yAxis/unit").is_empty();
    }
    let overrides = list(panel, "/fieldConfig/overrides").iter();
    let mut properties = overrides.flat_map(|field| list(field, "/properties"));
    let hidden = list(panel, "/transformations")
        .iter()
        .any(|step| step["id"] == "organize" && step["options"]["excludeByName"]["Value"] == true);
    !text(panel, "/fieldConfig/defaults/unit").is_empty()
        || properties.any(|property| property["id"] == "unit")
        || hidden
}

#[test]
fn every_line_has_a_name_in_a_legend() {
    for dashboard in dashboards() {
        for panel in dashboard.panels() {
            let kind = text(panel, "/type");
            let place = dashboard.place(panel);
            if kind == "timeseries" {
                let shown = &panel["options"]["legend"]["showLegend"];
                assert_eq!(shown, true, "{place}: no legend");
            }
            if kind == "timeseries" || kind == "stat" {
                for target in list(panel, "/targets") {
                    let legend = text(target, "/legendFormat");
                    // The labels of an expression that the user types are not known in advance.
                    let typed = text(target, "/expr").starts_with("${");
                    let named = !legend.is_empty() && typed == (legend == "__auto");
                    assert!(named, "{place}: {}", text(target, "/refId"));
                }
            }
        }
    }
}

struct Grid {
    x: u64,
    y: u64,
    w: u64,
    h: u64,
}

impl Grid {
    fn of(panel: &Value) -> Self {
        let number = |name: &str| {
            panel["gridPos"][name]
                .as_u64()
                .expect("a place in the grid")
        };
        Self {
            x: number("x"),
            y: number("y"),
            w: number("w"),
            h: number("h"),
        }
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.x < other.x + other.w
            && other.x < self.x + self.w
            && self.y < other.y + other.h
            && other.y < self.y + self.h
    }
}

#[test]
fn panels_do_not_lie_on_each_other() {
    for dashboard in dashboards() {
        let panels = dashboard.panels();
        for (index, panel) in panels.iter().enumerate() {
            let grid = Grid::of(panel);
            let place = dashboard.place(panel);
            assert!(grid.w > 0 && grid.h > 0 && grid.x + grid.w <= 24, "{place}");
            for other in &panels[..index] {
                let apart = !grid.overlaps(&Grid::of(other));
                assert!(apart, "{place} is on {:?}", text(other, "/title"));
            }
        }
    }
}

#[test]
fn links_carry_time_and_selection_to_what_exists() {
    let dashboards = dashboards();
    let uids: Vec<&str> = dashboards.iter().map(|d| text(&d.json, "/uid")).collect();
    let mut seen = 0;
    let mut to_each_other = BTreeSet::new();
    for dashboard in &dashboards {
        let mut urls = Vec::new();
        values_of("url", &dashboard.json["panels"], &mut urls);
        for url in urls.iter().filter_map(|url| url.as_str()) {
            seen += 1;
            if let Some(to) = url.strip_prefix("/d/") {
                let uid = to.split('/').next().unwrap_or_default();
                assert!(uids.contains(&uid), "{}: {url}", dashboard.file);
                to_each_other.insert((dashboard.file.as_str(), uid));
                for part in ["${__url_time_range}", "${datasource:queryparam}"] {
                    assert!(url.contains(part), "{}: {url}: {part}", dashboard.file);
                }
                for variable in ["cluster", "host", "namespace", "pod", "docs"] {
                    let kept = url.contains(&format!("${{{variable}:queryparam}}"));
                    let chosen = url.contains(&format!("&var-{variable}=${{__"));
                    assert!(kept != chosen, "{}: {url}: {variable}", dashboard.file);
                }
            } else {
                assert!(url.starts_with("${docs:raw}/"), "{}: {url}", dashboard.file);
            }
        }
    }
    assert!(seen > 5, "{seen} links");
    for way in [
        ("fleet.json", "stallscope-host"),
        ("fleet.json", "stallscope-pod"),
        ("host.json", "stallscope-pod"),
        ("pod.json", "stallscope-host"),
        ("pod.json", "stallscope-checkpoint-spike"),
        ("checkpoint-spike.json", "stallscope-pod"),
        ("checkpoint-spike.json", "stallscope-host"),
    ] {
        assert!(to_each_other.contains(&way), "no link {way:?}");
    }
}
