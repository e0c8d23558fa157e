import { useRef, useState, type SyntheticEvent } from "react";
import { api, bodyOf, idempotencyKey, type Job, type Schemas } from "../../../api/client";
import { useAction } from "../../../api/useAction";
import { address, go } from "../../../app/router";
import { Faults } from "../../../form/faults";
import { Field } from "../../../form/Field";
import "../../../form/form.css";
import { ProblemBox } from "../../../ui/ProblemBox";
import { best } from "./best";
import { ChooseCheckpoint } from "./ChooseCheckpoint";

type Checkpoint = Schemas["CheckpointView"];
type Place = Schemas["Destination"];

const PLACES: Readonly<Record<Place, string>> = {
  folder: "A folder of the service’s object store",
  mlflow: "MLflow, as a version of a registered model",
  hub: "The Hugging Face Hub",
};
const NAMES: Readonly<Record<Place, string>> = {
  folder: "The folder’s name.",
  mlflow: "That of the registered model.",
  hub: "The repository, as owner/name.",
};

/** What is asked for, as it is typed. */
interface Asked {
  to: Place;
  target: string;
  /** Whether as it is stored, rather than as a plain transformers folder. */
  stored: boolean;
  revision: string;
  message: string;
  open: boolean;
}

const NOTHING: Asked = { to: "folder", target: "", stored: false, revision: "", message: "", open: false };

/** Hands a checkpoint's model over, as a run of its own. */
export function ExportForm({ checkpoints }: { checkpoints: readonly Checkpoint[] }) {
  const [chosen, setChosen] = useState<string | null>(null);
  const [asked, setAsked] = useState(NOTHING);
  const { busy, problem, run } = useAction();
  const sent = useRef({ text: "", key: "" });
  const checkpoint = checkpoints.find((each) => each.id === chosen) ?? best(checkpoints);
  const set = (change: Partial<Asked>) => setAsked({ ...asked, ...change });
  const send = async () => {
    const body = requestOf(asked, checkpoint);
    // The same request, sent again after a lost connection, makes no second run.
    const text = JSON.stringify([checkpoint.id, body]);
    if (sent.current.text !== text) sent.current = { text, key: idempotencyKey() };
    const params = { path: { checkpoint_id: checkpoint.id }, header: { "Idempotency-Key": sent.current.key } };
    const made = await bodyOf(api.POST("/v1/checkpoints/{checkpoint_id}/exports", { params, body }));
    go(address(["runs", (made as Job).id]));
  };
  const submit = (event: SyntheticEvent) => {
    event.preventDefault();
    void run(send);
  };
  return (
    <details>
      <summary>Export a checkpoint</summary>
      <Faults value={problem?.errors ?? []}>
        <form noValidate onSubmit={submit}>
          <div className="fields">
            <ChooseCheckpoint checkpoints={checkpoints} chosen={checkpoint.id} choose={setChosen} />
            <Place asked={asked} set={set} />
            {checkpoint.form !== "full" && asked.to !== "mlflow" && <Form own={checkpoint.form} asked={asked} set={set} />}
            {asked.to === "hub" && <OfTheHub asked={asked} set={set} />}
          </div>
          {problem && <ProblemBox problem={problem} />}
          <div className="actions">
            <button type="submit" disabled={busy}>
              Export
            </button>
          </div>
        </form>
      </Faults>
    </details>
  );
}

/** The request: what is for one place alone is sent to that place only. */
function requestOf({ to, target, stored, revision, message, open }: Asked, { form }: Checkpoint) {
  const ofTheHub = {
    private: !open,
    ...(revision.trim() && { revision: revision.trim() }),
    ...(message.trim() && { message: message.trim() }),
  };
  const kept = stored && to !== "mlflow" ? form : "full";
  // What is left out has a default, which the types do not know.
  return { to, target: target.trim(), form: kept, ...(to === "hub" && ofTheHub) } as Schemas["ExportRequest"];
}

interface PartProps {
  asked: Asked;
  set: (change: Partial<Asked>) => void;
}

function Place({ asked, set }: PartProps) {
  return (
    <>
      <Field label="To" pointer="/to">
        {(named) => (
          <select {...named} value={asked.to} onChange={(event) => set({ to: event.target.value as Place })}>
            {Object.entries(PLACES).map(([value, words]) => (
              <option key={value} value={value}>
                {words}
              </option>
            ))}
          </select>
        )}
      </Field>
      <Field label="Name there" pointer="/target" help={NAMES[asked.to]}>
        {(named) => (
          <input {...named} maxLength={96} spellCheck={false} value={asked.target} onChange={(event) => set({ target: event.target.value })} />
        )}
      </Field>
    </>
  );
}

function Form({ own, asked, set }: PartProps & { own: string }) {
  return (
    <Field label="Form" pointer="/form">
      {(named) => (
        <select {...named} value={asked.stored ? own : "full"} onChange={(event) => set({ stored: event.target.value !== "full" })}>
          <option value="full">full: a plain transformers folder</option>
          <option value={own}>{own}: as it is stored</option>
        </select>
      )}
    </Field>
  );
}

function OfTheHub({ asked, set }: PartProps) {
  return (
    <>
      <Field label="Visibility" pointer="/private" help={asked.open ? "A repository that exists stays as it is." : "A public repository is refused."}>
        {(named) => (
          <select {...named} value={asked.open ? "public" : "private"} onChange={(event) => set({ open: event.target.value === "public" })}>
            <option>private</option>
            <option>public</option>
          </select>
        )}
      </Field>
      <Field label="Branch" pointer="/revision" help="It is made if it does not exist.">
        {(named) => (
          <input {...named} placeholder="main" maxLength={100} spellCheck={false} value={asked.revision} onChange={(event) => set({ revision: event.target.value })} />
        )}
      </Field>
      <Field label="Commit message" pointer="/message" help="Left empty, it names the checkpoint and its fine-tune.">
        {(named) => <input {...named} maxLength={200} value={asked.message} onChange={(event) => set({ message: event.target.value })} />}
      </Field>
    </>
  );
}
