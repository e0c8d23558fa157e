/** A row to ask a checkpoint about, from what was typed. */

/** What a checkpoint reads: its parts, in order, and the column or columns of each. */
export interface Inputs {
  readonly parts: readonly string[];
  readonly columns: Readonly<Record<string, string | readonly string[]>>;
}

export interface Column {
  readonly column: string;
  /** How the text becomes the cell. */
  readonly kind: "text" | "words" | "lines";
}

/** The fields to fill in for a row. */
export function fieldsOf({ parts, columns }: Inputs): Column[] {
  return parts.flatMap((part): Column[] => {
    const named = columns[part] ?? part;
    if (typeof named !== "string") return named.map((column) => ({ column, kind: "text" }));
    if (part === "tokens") return [{ column: named, kind: "words" }];
    return [{ column: named, kind: part === "choices" ? "lines" : "text" }];
  });
}

/** The row, with words parted at spaces and choices at the ends of lines. */
export function rowOf(fields: readonly Column[], typed: Readonly<Record<string, string>>) {
  const cell = ({ column, kind }: Column): string | string[] => {
    const text = typed[column] ?? "";
    if (kind === "text") return text;
    return text.split(kind === "words" ? /\s+/ : /\n+/).filter((each) => each.trim() !== "");
  };
  return Object.fromEntries(fields.map((field) => [field.column, cell(field)]));
}
