import { useState, type SyntheticEvent } from "react";
import { address, go } from "../app/router";
import { KINDS, STATUSES, toggled, withFilter, type FilterName } from "./filters";

const TEXTS = [
  ["model", "Model", "google-bert/bert-base-cased"],
  ["dataset", "Dataset", "glue/cola"],
  ["label", "Label", "team=search"],
] as const;

/** The filters that the API offers. They stand in the address, so that a link keeps them. */
export function Filters({ filters }: { filters: URLSearchParams }) {
  const parent = filters.get("parent");
  return (
    <div className="filters" role="search" aria-label="Runs">
      <Choices name="status" label="Status" values={STATUSES} filters={filters} />
      <Choices name="kind" label="Kind" values={KINDS} filters={filters} />
      <div className="texts">
        {TEXTS.map(([name, label, example]) => (
          <TextFilter
            key={`${name} ${filters.get(name) ?? ""}`}
            {...{ name, label, example, filters }}
          />
        ))}
        {filters.size > 0 && (
          <a className="button" href={address(["runs"])}>
            Clear the filters
          </a>
        )}
      </div>
      {parent && (
        <p>
          Only the runs of <a href={address(["runs", parent])}>{parent}</a>
        </p>
      )}
    </div>
  );
}

interface ChoicesProps {
  name: FilterName;
  label: string;
  values: readonly string[];
  filters: URLSearchParams;
}

function Choices({ name, label, values, filters }: ChoicesProps) {
  const chosen = filters.getAll(name);
  return (
    <div className="choices" role="group" aria-label={label}>
      <span className="label" aria-hidden="true">
        {label}
      </span>
      {values.map((value) => (
        <button
          key={value}
          className="chip"
          aria-pressed={chosen.includes(value)}
          onClick={() => go(address(["runs"], toggled(filters, name, value)))}
        >
          {value}
        </button>
      ))}
    </div>
  );
}

interface TextProps {
  name: FilterName | "label";
  label: string;
  example: string;
  filters: URLSearchParams;
}

function TextFilter({ name, label, example, filters }: TextProps) {
  const given = filters.get(name) ?? "";
  const [text, setText] = useState(given);
  const wrong = name === "label" && text !== "" && !/^[^=]+=./.test(text);
  const submit = (event: SyntheticEvent) => {
    event.preventDefault();
    const wanted = text.trim();
    // Who only passes by, with the Tab key say, stays where they are.
    if (wrong || wanted === given) return;
    go(address(["runs"], withFilter(filters, name, [wanted])));
  };
  return (
    <form onSubmit={submit}>
      <label>
        {label}
        <input
          value={text}
          placeholder={example}
          spellCheck={false}
          aria-invalid={wrong}
          aria-describedby={wrong ? "label-form" : undefined}
          onChange={(event) => setText(event.target.value)}
          onBlur={submit}
        />
      </label>
      {wrong && (
        <small id="label-form" role="alert">
          A label is written key=value.
        </small>
      )}
    </form>
  );
}
