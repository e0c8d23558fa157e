import type { Job } from "../../api/client";
import { blockOf } from "../../charts/names";
import type { FinetuneResult } from "../../charts/results";

interface Box {
  name: string;
  trains: boolean;
  /** Which parts of it train, where not all do. */
  parts?: string;
}

interface Known {
  model?: { layers?: number | null };
  layers?: string[] | null;
  granularity?: string | null;
}

interface Asked {
  selection?: { policy?: string; include?: string[] };
  adapter?: { type?: string } | null;
}

/** The encoder from its input to its head, and which of its layers train. */
export function Encoder({ job }: { job: Job }) {
  const { layers, model, granularity } = job.resolved as Known;
  const { selection, adapter } = job.spec as Asked;
  const result = job.result as FinetuneResult | null;
  const trained = result?.trained_layers ?? layers ?? null;
  if (adapter?.type && !trained?.length) {
    return <p>An adapter of type {adapter.type} trains in place of layers, and the head.</p>;
  }
  if (!trained) {
    return <p className="muted">Which layers train is known once the ranking or search that it goes by has ended.</p>;
  }
  if (!model?.layers) return <p>Trains: {trained.join(", ") || "the head alone"}.</p>;
  const boxes = boxesOf(model.layers, trained, selection?.include ?? []);
  const unplaced = trained.filter((name) => blockOf(name) === null);
  return (
    <>
      <p className="muted">
        {sentence(trained, granularity)} {result && counts(result)}
        {unplaced.length > 0 && ` Also: ${unplaced.join(", ")}.`}
      </p>
      <ol className="encoder" aria-label="The encoder, from its input to its head">
        {boxes.map((box) => (
          <li key={box.name} className={box.trains ? "trains" : ""}>
            {box.name}
            <small>{box.trains ? (box.parts ?? "trains") : "frozen"}</small>
          </li>
        ))}
      </ol>
    </>
  );
}

function sentence(trained: readonly string[], granularity: string | null | undefined): string {
  if (trained.length === 0) return "Only the head trains.";
  const whole = granularity == null || granularity === "layer";
  const [one, several] = whole ? ["layer trains", "layers train"] : ["part trains", "parts of layers train"];
  return `${trained.length} ${trained.length === 1 ? one : several}, and the head.`;
}

function counts({ trainable_parameters: some, total_parameters: all }: FinetuneResult): string {
  const share = new Intl.NumberFormat(undefined, { style: "percent", maximumSignificantDigits: 2 });
  const whole = new Intl.NumberFormat();
  return `${whole.format(some)} of ${whole.format(all)} parameters (${share.format(some / all)}).`;
}

function boxesOf(count: number, trained: readonly string[], include: readonly string[]): Box[] {
  const layers = Array.from({ length: count }, (_, index): Box => {
    const own = trained.filter((name) => blockOf(name) === index);
    const parts = own.map((name) => /\d+\.(.+)$/.exec(name)?.[1] ?? "").filter(Boolean);
    const box = { name: `layer ${index}`, trains: own.length > 0 };
    return parts.length ? { ...box, parts: partWords(parts) } : box;
  });
  return [
    { name: "embeddings", trains: include.includes("embeddings") },
    ...layers,
    ...(include.includes("pooler") ? [{ name: "pooler", trains: true }] : []),
    { name: "head", trains: true },
  ];
}

function partWords(parts: readonly string[]): string {
  return parts.length > 2 ? `${parts.length} parts train` : parts.join(", ");
}
