import { useCallback, useId } from "react";
import { api, bodyOf, type Schemas } from "../api/client";
import { useOnce } from "../api/useOnce";
import { Field } from "../form/Field";
import { Failure } from "../ui/Failure";
import { wholeNumber } from "../ui/format";

const TYPING_MILLISECONDS = 400;
const loadModels = (signal: AbortSignal) => bodyOf(api.GET("/v1/models", { signal }));

interface Props {
  model: string;
  onChange: (model: string) => void;
}

/** Which model; its layers and their sizes are told as soon as it is named. */
export function ModelPart({ model, onChange }: Props) {
  const list = useId();
  const { data: known } = useOnce(loadModels);
  const id = model.trim();
  const describe = useCallback(
    (signal: AbortSignal) =>
      bodyOf(api.GET("/v1/models/{model_id}", { params: { path: { model_id: id } }, signal })),
    [id],
  );
  const { data: info, error, loading } = useOnce(id ? describe : null, TYPING_MILLISECONDS);
  const help = known?.hub
    ? "A model of the list, or any encoder of the Hugging Face Hub: owner/name, with @revision if wanted."
    : "A model of the service's mirrors; it works offline.";
  return (
    <section className="card" aria-labelledby="model-title">
      <h2 id="model-title">Model</h2>
      <Field label="Model" pointer="/model" help={help}>
        {(named) => (
          <input
            {...named}
            list={list}
            value={model}
            spellCheck={false}
            autoComplete="off"
            required
            onChange={(event) => onChange(event.target.value)}
          />
        )}
      </Field>
      <datalist id={list}>
        {known?.data.map((each) => (
          <option key={each.id} value={each.id} />
        ))}
      </datalist>
      {id && loading && <p className="muted">Loading …</p>}
      <Failure error={error} />
      {info && <Layers info={info} />}
    </section>
  );
}

function Layers({ info }: { info: Schemas["ModelInfo"] }) {
  const others = Object.entries(info.groups).filter(([name]) => !name.includes("layer"));
  return (
    <div aria-live="polite">
      <p>
        {info.model_type}, {wholeNumber(info.layers.length)} layers, {wholeNumber(info.parameters)} parameters
        {others.length > 0 &&
          `: ${others.map(([name, count]) => `${name} ${wholeNumber(count)}`).join(", ")}, and in the layers`}
      </p>
      <ol className="layers" aria-label="Layers and their parameters">
        {info.layers.map((layer) => (
          <li key={layer.name}>
            <code>{layer.name}</code>
            <span className="number">{wholeNumber(layer.parameters)}</span>
          </li>
        ))}
      </ol>
    </div>
  );
}
