import type { Schemas } from "../api/client";
import { DataTable } from "../ui/DataTable";
import { wholeNumber } from "../ui/format";

type Dataset = Schemas["DatasetView"];

/** What the service has found in a dataset when it read every row. */
export function Report({ dataset }: { dataset: Dataset }) {
  const { rows, duplicates, text_lengths: lengths } = dataset;
  const splits = Object.keys(rows);
  return (
    <div aria-label="Report" role="group">
      {dataset.note && <p>{dataset.note}</p>}
      <dl className="facts">
        <Fact name="Problem" value={dataset.problem.replaceAll("_", " ")} inferred={dataset.inferred.includes("problem")} />
        <Fact name="Columns" value={columnsOf(dataset)} inferred={dataset.inferred.includes("columns")} />
        <Fact
          name="Rows"
          value={splits.map((split) => `${split} ${wholeNumber(rows[split] ?? 0)}`).join(", ")}
          inferred={dataset.inferred.includes("validation")}
        />
        <Fact name="Longest text" value={`${wholeNumber(lengths.longest)} words`} />
        <Fact
          name="Duplicates"
          value={`${wholeNumber(duplicates.within_train)} within train, ${wholeNumber(duplicates.train_and_validation)} in both splits`}
        />
      </dl>
      {dataset.label_counts && <Labels counts={dataset.label_counts} splits={splits} />}
      <Findings findings={dataset.findings} />
    </div>
  );
}

function Fact({ name, value, inferred = false }: { name: string; value: string; inferred?: boolean }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>
        {value}
        {inferred && <span className="muted"> (inferred)</span>}
      </dd>
    </div>
  );
}

function columnsOf({ columns }: Dataset): string {
  const named = Object.entries(columns).filter(([, column]) => column != null);
  return named.map(([role, column]) => `${role.replaceAll("_", " ")}: ${String(column)}`).join("; ");
}

const MOST_LABELS = 30;

function Labels({ counts, splits }: { counts: Record<string, Record<string, number>>; splits: string[] }) {
  const labels = [...new Set(splits.flatMap((split) => Object.keys(counts[split] ?? {})))];
  const rows = labels.slice(0, MOST_LABELS).map((label) => ({
    id: label,
    cells: [label, ...splits.map((split) => wholeNumber(counts[split]?.[label] ?? 0))],
  }));
  return (
    <>
      <h3>Labels</h3>
      <DataTable title="Labels" columns={["Label", ...splits]} rows={rows} none="There are no labels." />
      {labels.length > MOST_LABELS && <p className="muted">and {wholeNumber(labels.length - MOST_LABELS)} more</p>}
    </>
  );
}

function Findings({ findings = [] }: { findings?: Dataset["findings"] }) {
  if (findings.length === 0) return null;
  return (
    <>
      <h3>Findings</h3>
      <ul>
        {findings.map((finding) => (
          <li key={finding.code + finding.detail}>
            {finding.detail}
            {finding.examples.length > 0 && (
              <small className="muted">
                {" "}
                {finding.examples.map((each) => `${each.file} row ${wholeNumber(each.row)}`).join(", ")}
              </small>
            )}
          </li>
        ))}
      </ul>
    </>
  );
}
