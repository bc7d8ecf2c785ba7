//! Choice of the newest kernel of a series among the packages of a suite.

use super::Kernel;
use crate::setup::foreign_packages::Package;

/// A package of a kernel image.
#[derive(Debug)]
pub struct Image<'a> {
    /// Package of the image.
    pub package: &'a Package,
    /// Release, as `uname -r` prints it.
    pub release: &'a str,
    /// Part of the release after the series, without the flavour.
    patch: &'a str,
    /// True if the image lacks Debian's signature.
    unsigned: bool,
}

impl<'a> Image<'a> {
    fn of(kernel: &Kernel, package: &'a Package) -> Option<Self> {
        let name = package.name.strip_prefix("linux-image-")?;
        let (release, unsigned) = match name.strip_suffix("-unsigned") {
            Some(release) => (release, true),
            None => (name, false),
        };
        let version = release.strip_suffix(kernel.flavour)?.strip_suffix('-')?;
        let patch = version.strip_prefix(kernel.series)?.strip_prefix('.')?;
        is_plain(patch).then_some(Self {
            package,
            release,
            patch,
            unsigned,
        })
    }

    /// Returns names and versions of the packages with the other parts of the kernel. Since 7.0 the image, the modules
    /// and the configuration are in one package each, named after the release.
    pub fn parts(&self) -> impl Iterator<Item = (&'a String, &'a String)> {
        let package = self.package;
        let release = self.release;
        package
            .depends
            .iter()
            .filter(move |(name, _)| name.starts_with("linux-") && name.ends_with(release))
            .map(move |(name, version)| (name, version.as_ref().unwrap_or(&package.version)))
    }
}

/// Returns whether the patch level is of the series' own suite and of no other flavour: `0-46`, `117+deb13.1`, but not
/// `0-0.deb11.44` (of a newer suite), `0-46-cloud` or `13+deb14-rt`.
fn is_plain(patch: &str) -> bool {
    let (upstream, debian) = patch.split_once('+').unwrap_or((patch, "deb0"));
    let numbers = |text: &str, marks: &str| {
        let fits = |c: char| c.is_ascii_digit() || marks.contains(c);
        !text.is_empty() && text.chars().all(fits)
    };
    numbers(upstream, ".-")
        && debian
            .strip_prefix("deb")
            .is_some_and(|debian| numbers(debian, ".+"))
}

/// Returns the images of a kernel's series and flavour: signed ones first, the newest first among each.
pub fn newest_first<'a>(kernel: &Kernel, packages: &'a [Package]) -> Vec<Image<'a>> {
    let of_kernel = |package| Image::of(kernel, package);
    let mut images: Vec<Image> = packages.iter().filter_map(of_kernel).collect();
    images.sort_by_key(|image| (image.unsigned, std::cmp::Reverse(numbers(image.patch))));
    images
}

/// Returns the numbers in a patch level. They sort patch levels by age.
pub fn numbers(patch: &str) -> Vec<u64> {
    patch
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::{KERNELS, Kernel};
    use super::newest_first;
    use crate::setup::foreign_packages::Package;

    fn kernel(name: &str) -> &'static Kernel {
        KERNELS.iter().find(|k| k.name() == name).unwrap()
    }

    fn package(name: &str) -> Package {
        Package {
            name: format!("linux-image-{name}"),
            version: "1-1".into(),
            depends: Vec::new(),
        }
    }

    fn order(kernel: &Kernel, names: &[&str]) -> Vec<String> {
        let packages: Vec<Package> = names.iter().map(|name| package(name)).collect();
        let images = newest_first(kernel, &packages);
        images
            .iter()
            .map(|i| i.package.name[12..].to_owned())
            .collect()
    }

    #[test]
    fn the_newest_is_found_by_number_not_by_letter() {
        let names = [
            "6.12.90+deb13.1-arm64-16k",
            "6.12.117+deb13-arm64-16k",
            "6.12.90+deb13-arm64-16k",
        ];
        let expected = [names[1], names[0], names[2]];
        assert_eq!(order(kernel("arm64-6.12"), &names), expected);
        let names = ["5.10.0-9-arm64", "5.10.0-46-arm64"];
        assert_eq!(order(kernel("arm64-5.10"), &names), [names[1], names[0]]);
    }

    #[test]
    fn other_flavours_series_and_backports_are_left_out() {
        let others = [
            "5.10.0-46-cloud-arm64",
            "5.10.0-46-rt-arm64",
            "5.10.0-46-arm64-dbg",
            "5.100.0-1-arm64",
            "6.1.0-0.deb11.44-arm64",
        ];
        assert!(order(kernel("arm64-5.10"), &others).is_empty());
        assert!(order(kernel("arm64-6.1"), &others).is_empty());
        let others = [
            "7.2.13+deb14-rt-arm64-16k",
            "7.2-rc1-arm64-16k",
            "7.2.13+deb14-arm64",
        ];
        assert!(order(kernel("arm64-7.2"), &others).is_empty());
    }

    #[test]
    fn a_real_time_kernel_is_a_flavour_of_its_own() {
        let names = [
            "6.12.118+deb13-rt-arm64",
            "6.12.118+deb13-arm64",
            "6.12.118+deb13-rt-amd64",
        ];
        assert_eq!(order(kernel("arm64-6.12-rt"), &names), [names[0]]);
        assert_eq!(order(kernel("amd64-6.12-rt"), &names), [names[2]]);
        assert!(order(kernel("amd64-6.12"), &names).is_empty());
    }

    #[test]
    fn unsigned_images_are_a_last_resort() {
        let names = [
            "6.12.2+deb13-cloud-amd64-unsigned",
            "6.12.1+deb13-cloud-amd64",
        ];
        assert_eq!(order(kernel("amd64-6.12"), &names), [names[1], names[0]]);
    }

    #[test]
    fn a_split_package_brings_its_parts() {
        let release = "7.2.13+deb14-cloud-amd64";
        let mut package = package(release);
        package.depends = vec![
            ("dracut".into(), None),
            (format!("linux-modules-{release}"), Some("7.2.13-1".into())),
            (format!("linux-binary-{release}"), None),
        ];
        let packages = [package];
        let images = newest_first(kernel("amd64-7.2"), &packages);
        let parts: Vec<_> = images[0].parts().map(|(n, v)| format!("{n}={v}")).collect();
        assert_eq!(
            parts,
            [
                format!("linux-modules-{release}=7.2.13-1"),
                format!("linux-binary-{release}=1-1")
            ]
        );
    }
}
