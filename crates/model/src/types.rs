//! PostgreSQL's types, and how their values appear in templates, payloads, indexes and filters.
//!
//! [`FAMILIES`] is the table that all parts of walvec follow, and that `docs/types.md` shows. A column's [`Type`] says
//! which row of the table applies.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The type of a payload index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexType {
    /// Exact strings.
    Keyword,
    /// Whole numbers.
    Integer,
    /// Floating-point numbers.
    Float,
    /// Booleans.
    Bool,
    /// Full text.
    Text,
    /// Timestamps.
    Datetime,
    /// UUIDs.
    Uuid,
}

impl IndexType {
    /// All index types.
    pub const ALL: [Self; 7] =
        [Self::Keyword, Self::Integer, Self::Float, Self::Bool, Self::Text, Self::Datetime, Self::Uuid];

    /// Returns whether this is an index of numbers. Fields indexed as numbers are stored as numbers.
    #[must_use]
    pub const fn is_number(self) -> bool {
        matches!(self, Self::Integer | Self::Float)
    }

    /// Returns whether points can be sorted by this index.
    #[must_use]
    pub const fn has_order(self) -> bool {
        matches!(self, Self::Integer | Self::Float | Self::Datetime)
    }
}

/// Formats the index type as it is written in a configuration.
impl fmt::Display for IndexType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Keyword => "keyword",
            Self::Integer => "integer",
            Self::Float => "float",
            Self::Bool => "bool",
            Self::Text => "text",
            Self::Datetime => "datetime",
            Self::Uuid => "uuid",
        })
    }
}

/// A column's type, as seen by everything downstream of PostgreSQL. A domain counts as the type below it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Type {
    /// `boolean`.
    Boolean,
    /// `smallint`, `integer`, `bigint`, `oid`.
    Integer,
    /// `real`, `double precision`.
    Float,
    /// `numeric`.
    Numeric {
        /// The number of digits after the decimal point, where the column declares it.
        scale: Option<i16>,
    },
    /// `text`, `varchar`, `citext` and similar types.
    Text,
    /// An enum.
    Enum,
    /// `uuid`.
    Uuid,
    /// `date`.
    Date,
    /// `timestamp`, with or without time zone.
    Timestamp,
    /// `json`, `jsonb`.
    Json,
    /// Any other type, represented by PostgreSQL's own text.
    Printed,
    /// A list of values of one type.
    Array(Box<Type>),
    /// The type is not known. A broker's record need not contain it.
    #[default]
    Unknown,
}

/// A row of the type table: types whose values are treated alike.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// The types, as SQL writes them.
    pub types: &'static str,
    /// How templates see the value.
    pub template: &'static str,
    /// How payloads hold the value.
    pub payload: &'static str,
    /// The index types that can serve the value. The first one is proposed.
    pub indexes: &'static [IndexType],
    /// What filters compare the value with.
    pub filter: &'static str,
    /// Whether points can be sorted by it, and by which index.
    pub sorted: &'static str,
}

use IndexType::{Bool, Datetime, Float, Integer, Keyword, Text, Uuid};

/// The largest number of digits with which a numeric can be declared.
const MOST_DIGITS: u32 = 1000;

/// The type table.
pub const FAMILIES: [Family; 11] = [
    Family {
        types: "`boolean`",
        template: "boolean",
        payload: "boolean",
        indexes: &[Bool],
        filter: "`=` with what PostgreSQL reads as a boolean: `true`, `yes`, `on`, `1`, ...",
        sorted: "no",
    },
    Family {
        types: "`smallint`, `integer`, `bigint`, `oid`",
        template: "number",
        payload: "number",
        indexes: &[Integer, Float],
        filter: "`=`, `<`, `>` with numbers",
        sorted: "with its index",
    },
    Family {
        types: "`real`, `double precision`",
        template: "number; `NaN` and infinities are text",
        payload: "number; `NaN` and infinities are text",
        indexes: &[Float],
        filter: "`=`, `<`, `>` with numbers",
        sorted: "with its index; `NaN` and infinities come last",
    },
    Family {
        types: "`numeric`",
        template: "number that prints all its digits",
        payload: "text with all its digits; a number if it is indexed as one",
        indexes: &[Float, Integer, Keyword],
        filter: "indexed as a number: `=`, `<`, `>` with numbers; else `=` with its text",
        sorted: "with an index of numbers, as the numbers in it",
    },
    Family {
        types: "`text`, `varchar`, `char`, `name`, `citext`",
        template: "text",
        payload: "text",
        indexes: &[Keyword, Text, Datetime, Uuid],
        filter: "`=` with the exact text, capitals included, also for `citext`",
        sorted: "no, unless they are dates: with a `datetime` index",
    },
    Family {
        types: "enums",
        template: "text",
        payload: "text",
        indexes: &[Keyword, Text],
        filter: "`=` with a label",
        sorted: "no",
    },
    Family {
        types: "`uuid`",
        template: "text, in lower case",
        payload: "text, in lower case",
        indexes: &[Uuid, Keyword],
        filter: "`=` with a UUID in any spelling",
        sorted: "no",
    },
    Family {
        types: "`date`, `timestamp`, `timestamptz`",
        template: "text as PostgreSQL prints it, in UTC",
        payload: "text as PostgreSQL prints it, in UTC",
        indexes: &[Datetime, Keyword],
        filter: "`=`, `<`, `>` with dates, or dates and times",
        sorted: "with a `datetime` index; `infinity` comes last",
    },
    Family {
        types: "`json`, `jsonb`",
        template: "the value; a number that JSON would round is text",
        payload: "the value; a number that JSON would round is text",
        indexes: &IndexType::ALL,
        filter: "a member by its path, `meta.color=red`, as what it is; or the value itself",
        sorted: "a member with an index of numbers or dates",
    },
    Family {
        types: "`money`, `time`, `interval`, ranges, composite types, `bytea`, `bit`, `inet`, `cidr`, `macaddr`, `xml`, geometric types, \
                `tsvector`, `hstore`, `ltree`, `isbn`, `vector` (pgvector), `geometry` (PostGIS), everything else",
        template: "text as PostgreSQL prints it",
        payload: "text as PostgreSQL prints it",
        indexes: &[Keyword, Text],
        filter: "`=` with the exact text",
        sorted: "no",
    },
    Family {
        types: "arrays",
        template: "list of such values",
        payload: "list of such values; text if the array has bounds of its own",
        indexes: &[],
        filter: "as its elements: a row with such an element is found",
        sorted: "no",
    },
];

impl Type {
    /// Returns the type of a built-in scalar type, by its fixed oid (PostgreSQL: `pg_type.dat`). Types that depend on
    /// the catalogue are [`Printed`](Self::Printed), since nothing is known of them.
    #[must_use]
    pub const fn of_oid(oid: u32) -> Self {
        match oid {
            0 => Self::Unknown,
            16 => Self::Boolean,
            20 | 21 | 23 | 26 => Self::Integer,
            700 | 701 => Self::Float,
            1700 => Self::Numeric { scale: None },
            18 | 19 | 25 | 1042 | 1043 => Self::Text,
            2950 => Self::Uuid,
            1082 => Self::Date,
            1114 | 1184 => Self::Timestamp,
            114 | 3802 => Self::Json,
            _ => Self::Printed,
        }
    }

    /// Returns the type for a name as SQL writes it, `numeric(10,2)[]` for example. A user-defined name may be a domain
    /// or an enum, so it is unknown.
    #[must_use]
    pub fn of_name(name: &str) -> Self {
        let name = name.trim();
        if let Some(element) = name.strip_suffix("[]") {
            let element = element.trim_end_matches("[]");
            return Self::Array(Box::new(Self::of_name(element)));
        }
        let (base, modifier) = name.split_once('(').unwrap_or((name, ""));
        match base.trim_end() {
            "boolean" | "bool" => Self::Boolean,
            "smallint" | "integer" | "bigint" | "oid" | "int2" | "int4" | "int8" => Self::Integer,
            "real" | "double precision" | "float4" | "float8" => Self::Float,
            "numeric" => {
                let declared =
                    modifier.trim_end_matches(')').split(',').nth(1).and_then(|scale| scale.trim().parse().ok());
                Self::Numeric { scale: declared.or((!modifier.is_empty()).then_some(0)) }
            }
            "text" | "character varying" | "character" | "varchar" | "bpchar" | "name" | "citext" => Self::Text,
            "uuid" => Self::Uuid,
            "date" => Self::Date,
            base if base.starts_with("timestamp") => Self::Timestamp,
            "json" | "jsonb" => Self::Json,
            _ => Self::Unknown,
        }
    }

    /// Returns a numeric column's type from its modifier in the catalogue: 16 bits of precision and 11 bits of scale,
    /// offset by 4; -1 if none is declared.
    #[must_use]
    pub fn numeric(modifier: i32) -> Self {
        let scale = (modifier >= 4).then(|| {
            let bits = (modifier - 4) & 0x7ff;
            i16::try_from(if bits >= 1024 { bits - 2048 } else { bits }).unwrap_or(0)
        });
        Self::Numeric { scale }
    }

    /// Returns the type as SQL writes it, so that [`of_name`](Self::of_name) can read it back.
    #[must_use]
    pub fn as_sql(&self) -> String {
        match self {
            Self::Numeric { scale: Some(scale) } => format!("numeric({MOST_DIGITS},{scale})"),
            Self::Timestamp => "timestamp".to_owned(),
            Self::Array(element) => format!("{}[]", element.as_sql()),
            other => other.to_string(),
        }
    }

    /// Returns the type itself, or for an array the type of its elements.
    #[must_use]
    pub fn scalar(&self) -> &Self {
        match self {
            Self::Array(element) => element.scalar(),
            scalar => scalar,
        }
    }

    /// Returns the type's row in the type table, for an array that of its elements; `None` if the type is not known.
    #[must_use]
    pub fn family(&self) -> Option<&'static Family> {
        let index = match self.scalar() {
            Self::Boolean => 0,
            Self::Integer => 1,
            Self::Float => 2,
            Self::Numeric { .. } => 3,
            Self::Text => 4,
            Self::Enum => 5,
            Self::Uuid => 6,
            Self::Date | Self::Timestamp => 7,
            Self::Json => 8,
            Self::Printed => 9,
            Self::Array(_) | Self::Unknown => return None,
        };
        FAMILIES.get(index)
    }

    /// Returns the index types that can serve a column of this type, the most suitable first.
    #[must_use]
    pub fn indexes(&self) -> Vec<IndexType> {
        let all = self.family().map_or(&IndexType::ALL[..], |family| family.indexes);
        // A whole-number index does not hold fractions.
        let serves = |index: &IndexType| {
            let has_fractions = matches!(self.scalar(), Self::Numeric { scale } if scale.is_none_or(|scale| scale > 0));
            !(has_fractions && *index == Integer)
        };
        all.iter().copied().filter(serves).collect()
    }

    /// Returns the index types by which points sort in PostgreSQL's order for a column of this type; empty if there is none.
    #[must_use]
    pub fn sorting(&self) -> Vec<IndexType> {
        match self {
            // A text may hold dates, and a JSON document numbers. Only the author of the configuration knows which index fits.
            Self::Text | Self::Json | Self::Array(_) => Vec::new(),
            other => other.indexes().into_iter().filter(|index| index.has_order()).collect(),
        }
    }

    /// Returns the index type that `walvec init` proposes and that messages name; `None` if no single one is best.
    #[must_use]
    pub fn proposed(&self) -> Option<IndexType> {
        match self.scalar() {
            Self::Json | Self::Unknown => None,
            Self::Numeric { scale: Some(scale) } if *scale <= 0 => Some(Integer),
            _ => self.indexes().first().copied(),
        }
    }

    /// Returns whether the values, or their elements, are exact numbers of any length.
    #[must_use]
    pub fn is_numeric(&self) -> bool {
        matches!(self.scalar(), Self::Numeric { .. })
    }
}

/// Formats the type as messages name it.
impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boolean => f.write_str("boolean"),
            Self::Integer => f.write_str("integer"),
            Self::Float => f.write_str("double precision"),
            Self::Numeric { .. } => f.write_str("numeric"),
            Self::Text => f.write_str("text"),
            Self::Enum => f.write_str("enum"),
            Self::Uuid => f.write_str("uuid"),
            Self::Date => f.write_str("date"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::Json => f.write_str("json"),
            Self::Printed => f.write_str("text as PostgreSQL prints it"),
            Self::Array(element) => write!(f, "{element}[]"),
            Self::Unknown => f.write_str("any type"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_the_same_by_its_oid_its_name_and_its_modifier() {
        assert_eq!(Type::of_name("numeric(10,2)"), Type::Numeric { scale: Some(2) });
        assert_eq!(Type::of_name("numeric(10,2)"), Type::numeric(((10 << 16) | 2) + 4));
        assert_eq!(Type::of_name("numeric(10)"), Type::numeric((10 << 16) + 4));
        assert_eq!(Type::of_name("numeric(3,-2)"), Type::numeric(((3 << 16) | (2048 - 2)) + 4));
        assert_eq!((Type::of_name("numeric"), Type::numeric(-1)), (Type::of_oid(1700), Type::of_oid(1700)));
        assert_eq!(Type::of_name("timestamp(3) with time zone"), Type::of_oid(1184));
        assert_eq!(Type::of_name("character varying(20)[]"), Type::Array(Box::new(Type::Text)));
        assert_eq!(Type::of_name("mood"), Type::Unknown);
        for name in ["numeric(10,2)[]", "numeric", "uuid", "date", "timestamp", "boolean"] {
            let ty = Type::of_name(name);
            assert_eq!(Type::of_name(&ty.as_sql()), ty, "{name}");
        }
    }

    #[test]
    fn a_numeric_with_fractions_is_no_whole_number() {
        assert_eq!(Type::numeric(-1).indexes(), [Float, Keyword]);
        assert_eq!(Type::of_name("numeric(10)").proposed(), Some(Integer));
        assert_eq!(Type::Array(Box::new(Type::Integer)).indexes(), [Integer, Float]);
        assert_eq!((Type::Json.proposed(), Type::Unknown.indexes().len()), (None, 7));
    }

    #[test]
    fn numbers_and_dates_can_be_sorted_and_lists_and_texts_cannot() {
        assert_eq!(Type::Integer.sorting(), [Integer, Float]);
        assert_eq!(Type::numeric(-1).sorting(), [Float]);
        assert_eq!(Type::Timestamp.sorting(), [Datetime]);
        assert_eq!(Type::Unknown.sorting(), [Integer, Float, Datetime]);
        for ty in [Type::Boolean, Type::Text, Type::Enum, Type::Uuid, Type::Json, Type::Printed] {
            assert_eq!(ty.sorting(), [], "{ty}");
            assert_eq!(Type::Array(Box::new(ty)).sorting(), []);
        }
        assert_eq!(Type::Array(Box::new(Type::Integer)).sorting(), []);
    }

    #[test]
    fn the_document_shows_the_table() {
        let document = include_str!("../../../docs/types.md");
        for family in &FAMILIES {
            let indexes: Vec<String> = family.indexes.iter().map(|index| format!("`{index}`")).collect();
            let indexes = match family.indexes.len() {
                0 => "as its elements".to_owned(),
                7 => "any; mostly for a member".to_owned(),
                _ => indexes.join(", "),
            };
            let Family { types, template, payload, filter, sorted, .. } = family;
            let row = format!("| {types} | {template} | {payload} | {indexes} | {filter} | {sorted} |");
            assert!(document.contains(&row), "docs/types.md lacks\n{row}");
        }
    }
}
