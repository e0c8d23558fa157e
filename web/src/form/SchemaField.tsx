import { useState } from "react";
import { Field, type Named } from "./Field";
import type { FieldInfo } from "./openapi";
import { labelOf, textOf, valueOf } from "./values";

interface Props {
  pointer: string;
  info: FieldInfo;
  /** What the request has; undefined where it leaves the field out. */
  value: unknown;
  onChange: (value: unknown) => void;
}

/** An input for a field of a request, as the service's own description of it says. */
export function SchemaField({ pointer, info, value, onChange }: Props) {
  const help = [info.description, info.limits && `${capital(info.limits)}.`].filter(Boolean).join(" ");
  const Input = info.type === "choice" ? Choice : info.type === "boolean" ? Switch : TextInput;
  return (
    <Field label={labelOf(pointer)} pointer={pointer} help={help && <Marked text={help} />}>
      {(named) => <Input named={named} info={info} value={value} onChange={onChange} />}
    </Field>
  );
}

/** The service's words, in which `code` stands between backticks. */
function Marked({ text }: { text: string }) {
  return text.split("`").map((part, index) => (index % 2 ? <code key={index}>{part}</code> : part));
}

type InputProps = Omit<Props, "pointer"> & { named: Named };

function Choice({ named, info, value, onChange }: InputProps) {
  const shown = textOf(value ?? info.preset);
  const known = shown === "" || info.values.includes(shown);
  return (
    <select {...named} value={shown} onChange={(event) => onChange(event.target.value || undefined)}>
      {info.preset == null && <option value="">–</option>}
      {!known && <option value={shown}>{shown}</option>}
      {info.values.map((each) => (
        <option key={each} value={each}>
          {each}
        </option>
      ))}
    </select>
  );
}

function Switch({ named, info, value, onChange }: InputProps) {
  return (
    <input
      {...named}
      type="checkbox"
      checked={Boolean(value ?? info.preset)}
      onChange={(event) => onChange(event.target.checked)}
    />
  );
}

/** The text is the reader's while it means what the request has: `1e-` is on its way to a number. */
function TextInput({ named, info, value, onChange }: InputProps) {
  const [draft, setDraft] = useState("");
  const asWritten = JSON.stringify(valueOf(draft, info.type)) === JSON.stringify(value);
  const numeric = info.type === "integer" || info.type === "number";
  return (
    <input
      {...named}
      inputMode={numeric ? "decimal" : "text"}
      spellCheck={false}
      autoComplete="off"
      placeholder={textOf(info.preset)}
      value={asWritten ? draft : textOf(value)}
      onChange={(event) => {
        setDraft(event.target.value);
        onChange(valueOf(event.target.value, info.type));
      }}
    />
  );
}

function capital(words: string): string {
  return words.charAt(0).toUpperCase() + words.slice(1);
}
