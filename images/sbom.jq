# A software bill of materials (CycloneDX 1.5) from `cargo metadata`. In: the metadata; $linked, the crates that are in the
# programs, and $built, these and those that only help to build them (scope "excluded"), as ["name version"]; $checksums,
# {"name version": SHA-256} from Cargo.lock; $root, $version, $timestamp. The same inputs give the same bytes: no serial
# number, everything sorted.

def called: "\(.name) \(.version)";
def purl: "pkg:cargo/\(.name)@\(.version)";

($linked | map({key: ., value: true}) | from_entries) as $is_linked
| ($built | map({key: ., value: true}) | from_entries) as $is_built
| (.packages | INDEX(.id)) as $package
| [.packages[] | select($is_built[called])] as $crates
| ($crates[] | select(.name == $root)) as $product
| {
    "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
    bomFormat: "CycloneDX",
    specVersion: "1.5",
    version: 1,
    metadata: {
      timestamp: $timestamp,
      component: {
        type: "application", "bom-ref": ($product | purl), name: $product.name, version: $version,
        licenses: [{expression: $product.license}], purl: ($product | purl)
      }
    },
    components: (
      $crates
      | map(
          select(.id != $product.id)
          | $checksums[called] as $sha256
          | {type: "library", "bom-ref": purl, name, version, scope: (if $is_linked[called] then "required" else "excluded" end)}
          + (if .description then {description: (.description | gsub("\\s+"; " ") | gsub("^ | $"; ""))} else {} end)
          + (if $sha256 then {hashes: [{alg: "SHA-256", content: $sha256}]} else {} end)
          # Before SPDX expressions, crates wrote a slash for OR.
          + (if .license then {licenses: [{expression: (.license | gsub("\\s*/\\s*"; " OR "))}]} else {} end)
          + {purl: purl}
          + (if .repository then {externalReferences: [{type: "vcs", url: .repository}]} else {} end)
        )
      | sort_by(.purl)
    ),
    dependencies: (
      [.resolve.nodes[] | select($is_built[$package[.id] | called])]
      | map({
          ref: ($package[.id] | purl),
          dependsOn: (
            [.deps[] | select(any(.dep_kinds[]; .kind != "dev")) | $package[.pkg] | select($is_built[called]) | purl]
            | unique
          )
        })
      | sort_by(.ref)
    )
  }
