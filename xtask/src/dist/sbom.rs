//! Bill of materials of one agent, in CycloneDX's JSON.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail};
use cyclonedx_bom::models::component::Classification;
use cyclonedx_bom::models::dependency::{Dependencies, Dependency};
use cyclonedx_bom::models::external_reference::{
    ExternalReference, ExternalReferenceType, ExternalReferences,
};
use cyclonedx_bom::models::hash::{Hash, HashAlgorithm, HashValue, Hashes};
use cyclonedx_bom::models::license::{LicenseChoice, Licenses};
use cyclonedx_bom::models::property::{Properties, Property};
use cyclonedx_bom::models::tool::{Tool, Tools};
use cyclonedx_bom::prelude::{
    Bom, Component, Components, DateTime, Metadata, NormalizedString, Purl, SpdxExpression,
    SpecVersion, Uri, UrnUuid, Validate as _,
};

use super::digest::sha256;
use super::native::{self, Library};
use super::parts::{Part, Parts, Side};
use super::release::Release;
use crate::workspace::{AGENT_PACKAGE, BPF_PACKAGE};

/// Newest version of the specification that the library writes.
const VERSION: SpecVersion = SpecVersion::V1_5;
/// Name of the property for the side of the kernel boundary that contains a component.
const SIDE: &str = "stallscope:side";

/// Writes the bill of materials of an agent. Equal parts give equal bytes.
pub fn write(
    release: &Release,
    agent: &[u8],
    parts: &Parts,
    libraries: &[Library],
) -> Result<Vec<u8>> {
    let root = parts
        .values()
        .find(|part| part.package.name == AGENT_PACKAGE)
        .with_context(|| format!("no crate of the agent is called `{AGENT_PACKAGE}`"))?;
    let mut subject = component(root)?;
    subject.component_type = Classification::Application;
    subject.hashes = Some(hashes(&sha256(agent)));
    let mut components = Vec::new();
    for part in parts
        .values()
        .filter(|part| part.package.id != root.package.id)
    {
        components.push(component(part)?);
    }
    for library in libraries {
        components.push(native_component(library)?);
    }
    components.sort_by(|a, b| a.bom_ref.cmp(&b.bom_ref));
    let bom = Bom {
        serial_number: Some(serial(agent)?),
        metadata: Some(metadata(release, subject)?),
        components: Some(Components(components)),
        dependencies: Some(dependencies(parts, libraries)),
        ..Bom::default()
    };
    let checked = bom.validate_version(VERSION);
    if !checked.passed() {
        bail!("the bill of materials breaks CycloneDX's rules: {checked:?}");
    }
    let mut json = Vec::new();
    bom.output_as_json(&mut json, VERSION)
        .context("the bill of materials could not be written")?;
    json.push(b'\n');
    Ok(json)
}

/// Derives the serial number from the agent's digest, so that the same agent always has the same one.
fn serial(agent: &[u8]) -> Result<UrnUuid> {
    let mut bytes = [0; 16];
    for (byte, pair) in bytes.iter_mut().zip(sha256(agent).as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(str::from_utf8(pair)?, 16)?;
    }
    let uuid = uuid::Builder::from_custom_bytes(bytes).into_uuid();
    UrnUuid::new(uuid.urn().to_string())
        .ok()
        .with_context(|| format!("`{uuid}` is no serial number"))
}

fn metadata(release: &Release, subject: Component) -> Result<Metadata> {
    let mut metadata = Metadata {
        component: Some(subject),
        tools: Some(Tools::List(vec![Tool {
            name: Some(NormalizedString::new("cargo xtask dist")),
            version: Some(NormalizedString::new(&release.version)),
            ..Tool::default()
        }])),
        ..Metadata::default()
    };
    if let Some(date) = release.date()? {
        metadata.timestamp = Some(DateTime::try_from(date)?);
    }
    if let Some(revision) = &release.revision {
        metadata.properties = Some(Properties(vec![Property::new(
            "stallscope:revision",
            revision,
        )]));
    }
    Ok(metadata)
}

fn component(part: &Part) -> Result<Component> {
    let package = &part.package;
    let version = package.version.to_string();
    let mut component = Component::new(
        Classification::Library,
        &package.name,
        &version,
        Some(reference(part)),
    );
    component.description = package
        .description
        .as_deref()
        .map(|text| NormalizedString::new(text.trim()));
    component.licenses = match &package.license {
        Some(licence) => Some(licences(licence)?),
        None => None,
    };
    component.hashes = part.checksum.as_deref().map(hashes);
    component.properties = Some(sides(&part.sides));
    component.external_references = package.repository.as_deref().map(repository).transpose()?;
    // The workspace's own crates are in no registry. As `cargo` packages their names could belong to others' crates.
    let kind = if part.is_own() { "generic" } else { "cargo" };
    let url = native::url(kind, None, &package.name, &version, None)?;
    component.purl = Some(purl(&url)?);
    Ok(component)
}

fn native_component(library: &Library) -> Result<Component> {
    let mut component = Component::new(
        Classification::Library,
        library.name,
        "",
        Some(library.name.to_owned()),
    );
    component.version = library.version.as_deref().map(NormalizedString::new);
    component.purl = library.package.as_deref().map(purl).transpose()?;
    component.licenses = Some(licences(library.licence)?);
    component.properties = Some(sides(&BTreeSet::from([library.side])));
    Ok(component)
}

fn reference(part: &Part) -> String {
    format!("{}@{}", part.package.name, part.package.version)
}

fn licences(expression: &str) -> Result<Licenses> {
    // Old manifests separate licences by a slash.
    let expression = SpdxExpression::parse_lax(expression.to_owned())
        .with_context(|| format!("`{expression}` is no licence expression"))?;
    Ok(Licenses(vec![LicenseChoice::Expression(expression)]))
}

fn hashes(sha256: &str) -> Hashes {
    Hashes(vec![Hash {
        alg: HashAlgorithm::SHA_256,
        content: HashValue(sha256.to_owned()),
    }])
}

fn sides(sides: &BTreeSet<Side>) -> Properties {
    Properties(
        sides
            .iter()
            .map(|side| Property::new(SIDE, side.name()))
            .collect(),
    )
}

fn repository(url: &str) -> Result<ExternalReferences> {
    let url = Uri::try_from(url.to_owned()).with_context(|| format!("`{url}` is no address"))?;
    Ok(ExternalReferences(vec![ExternalReference::new(
        ExternalReferenceType::Vcs,
        url,
    )]))
}

fn purl(url: &str) -> Result<Purl> {
    url.parse()
        .ok()
        .with_context(|| format!("`{url}` is no package URL"))
}

/// Returns the dependency graph. The workspace's own crate of a side depends on that side's libraries.
fn dependencies(parts: &Parts, libraries: &[Library]) -> Dependencies {
    let mut all: Vec<Dependency> = parts
        .values()
        .map(|part| {
            let mut needs: Vec<String> = part
                .needs
                .iter()
                .filter_map(|id| parts.get(id))
                .map(reference)
                .collect();
            let user = |library: &&Library| {
                let user = match library.side {
                    Side::Agent => AGENT_PACKAGE,
                    Side::Kernel => BPF_PACKAGE,
                };
                part.package.name == user
            };
            needs.extend(
                libraries
                    .iter()
                    .filter(user)
                    .map(|library| library.name.to_owned()),
            );
            needs.sort();
            Dependency {
                dependency_ref: reference(part),
                dependencies: needs,
            }
        })
        .collect();
    all.sort_by(|a, b| a.dependency_ref.cmp(&b.dependency_ref));
    Dependencies(all)
}

#[cfg(test)]
mod tests {
    use super::write;
    use crate::dist::native::Library;
    use crate::dist::parts::{Part, Parts, Side};
    use crate::dist::release::Release;
    use serde_json::{Value, json};
    use std::collections::BTreeSet;

    fn part(name: &str, licence: &str, source: Option<&str>, needs: &[&str]) -> Part {
        let package = json!({
            "name": name, "version": "1.0.0", "id": name, "source": source, "license": licence,
            "dependencies": [], "targets": [], "features": {}, "manifest_path": "/x/Cargo.toml",
            "repository": "https://example.com/x",
        });
        Part {
            package: serde_json::from_value(package).unwrap(),
            sides: BTreeSet::from([Side::Agent]),
            needs: needs
                .iter()
                .map(|id| cargo_metadata::PackageId {
                    repr: (*id).to_owned(),
                })
                .collect(),
            checksum: source.map(|_| "ab".repeat(32)),
        }
    }

    fn parts(licence: &str) -> Parts {
        let registry = Some("registry+https://example.com/index");
        [
            part("stallscope", "MIT", None, &["other"]),
            part("other", licence, registry, &[]),
        ]
        .into_iter()
        .map(|part| (part.package.id.clone(), part))
        .collect()
    }

    fn libraries() -> [Library; 1] {
        [Library {
            name: "glibc",
            version: None,
            package: None,
            licence: "LGPL-2.1-or-later",
            side: Side::Agent,
            texts: Vec::new(),
        }]
    }

    fn bill(licence: &str) -> Value {
        let release = Release {
            seconds: Some(0),
            ..Release::default()
        };
        let bill = write(&release, b"program", &parts(licence), &libraries()).unwrap();
        serde_json::from_slice(&bill).unwrap()
    }

    #[test]
    fn crates_have_their_checksum_licence_and_package_url() {
        let bill = bill("MIT/Apache-2.0");
        let subject = &bill["metadata"]["component"];
        assert_eq!(subject["purl"], "pkg:generic/stallscope@1.0.0");
        assert_eq!(subject["hashes"][0]["content"], super::sha256(b"program"));
        let other = &bill["components"][1];
        assert_eq!(other["purl"], "pkg:cargo/other@1.0.0");
        assert_eq!(other["hashes"][0]["content"], "ab".repeat(32));
        assert_eq!(other["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(other["properties"][0]["value"], "agent");
    }

    #[test]
    fn who_uses_whom_is_told_by_references_that_exist() {
        let bill = bill("MIT");
        let of_agent = &bill["dependencies"][1];
        assert_eq!(of_agent["ref"], "stallscope@1.0.0");
        assert_eq!(of_agent["dependsOn"], json!(["glibc", "other@1.0.0"]));
        assert_eq!(bill["components"][0]["bom-ref"], "glibc");
        assert_eq!(bill["components"][0]["version"], Value::Null);
    }

    #[test]
    fn equal_agents_have_equal_bills() {
        assert_eq!(bill("MIT"), bill("MIT"));
        let release = Release::default();
        let serial = |program: &[u8]| {
            let bill = write(&release, program, &parts("MIT"), &libraries()).unwrap();
            serde_json::from_slice::<Value>(&bill).unwrap()["serialNumber"].clone()
        };
        assert_eq!(serial(b"one"), serial(b"one"));
        assert_ne!(serial(b"one"), serial(b"other"));
    }

    #[test]
    fn a_licence_that_is_none_is_refused_by_name() {
        let parts = parts("free for all");
        let error = write(&Release::default(), b"", &parts, &libraries()).unwrap_err();
        assert!(error.to_string().contains("`free for all`"), "{error:#}");
    }
}
