//! JSON values as YAML 1.2, for `-o yaml`. Any value flows in; what the writer of edge-config makes of it comes out.

use edge_config::yaml::Tree;
use serde_json::Value;

/// One document, with a newline at the end.
pub fn to_yaml(value: &Value) -> String {
    tree(value).to_yaml()
}

fn tree(value: &Value) -> Tree {
    match value {
        Value::Null => Tree::Null,
        Value::Bool(value) => Tree::Bool(*value),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Tree::Int(number),
            (None, Some(number)) => Tree::Uint(number),
            // serde_json keeps no other numbers.
            (None, None) => Tree::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => Tree::Text(text.clone()),
        Value::Array(items) => Tree::List(items.iter().map(tree).collect()),
        Value::Object(members) => Tree::Map(members.iter().map(|(key, value)| (key.clone(), tree(value))).collect()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn blocks() {
        let value = json!({
            "a": 1,
            "list": [1, "two", {"x": 1, "y": []}, [1, [2, {}]], {"deep": {"er": null}}],
            "empty": {},
            "text": "a: b",
            "": "empty key",
        });
        let expected = "a: 1\nlist:\n  - 1\n  - two\n  - x: 1\n    \"y\": []\n  - - 1\n    - - 2\n      - {}\n  - deep:\n      \
                        er: null\nempty: {}\ntext: \"a: b\"\n\"\": empty key\n";
        assert_eq!(to_yaml(&value), expected);
    }

    #[test]
    fn strings_that_need_quotes() {
        for text in [
            "", "true", "No", "1", "1e3", "-", "~", "a ", " a", "a:", "a: b", "#", "a #b", "*x", "0x1f", "é\u{85}",
            "12:30",
        ] {
            assert!(to_yaml(&json!(text)).starts_with('"'), "{text:?}");
        }
        for text in ["abc", "HTTPRoute shop/cart", "a:b", "/path/x", "x.example", "not bound"] {
            assert_eq!(to_yaml(&json!(text)), format!("{text}\n"));
        }
    }

    #[test]
    fn long_keys_are_explicit() {
        let key = "k".repeat(2000);
        assert_eq!(to_yaml(&json!({ key.clone(): [1] })), format!("? {key}\n:\n  - 1\n"));
    }

    fn reread(value: &Value) -> Value {
        let text = to_yaml(value);
        let node = edge_config::yaml::parse(&text).unwrap_or_else(|fault| panic!("{fault:?} in\n{text}"));
        let node = node.unwrap_or_else(|| panic!("nothing in\n{text}"));
        edge_config::yaml::decode(&node, "", &[]).0.unwrap_or_else(|fault| panic!("{fault:?} in\n{text}"))
    }

    fn any_value() -> impl proptest::strategy::Strategy<Value = Value> {
        use proptest::prelude::*;
        let text = prop_oneof![any::<String>(), "[ -~]{0,12}", "[ynYN~.0-9eEx:#-]{0,5}"].boxed();
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            text.clone().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 48, 6, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::btree_map(text.clone(), inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest::proptest! {
        #[test]
        fn any_value_comes_back(value in any_value()) {
            proptest::prop_assert_eq!(reread(&value), value);
        }
    }
}
