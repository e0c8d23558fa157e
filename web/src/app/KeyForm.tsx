import { useState, type SyntheticEvent } from "react";
import type { ProblemDocument } from "../api/problem";
import { takeKey } from "../api/session";
import { ProblemBox } from "../ui/ProblemBox";

interface Props {
  refusal: ProblemDocument;
  /** Whether the service has refused a key, rather than asked for one. */
  hadKey: boolean;
}

export function KeyForm({ refusal, hadKey }: Props) {
  const [key, setKey] = useState("");
  const submit = (event: SyntheticEvent) => {
    event.preventDefault();
    if (key.trim()) takeKey(key.trim());
  };
  return (
    <form className="card narrow" onSubmit={submit}>
      <h1>API key</h1>
      {hadKey && <ProblemBox problem={refusal} />}
      <p>This service wants to know who asks. Paste a key of your project; it begins with sk_.</p>
      <label>
        Key
        <input
          type="password"
          autoComplete="off"
          spellCheck={false}
          required
          value={key}
          onChange={(event) => setKey(event.target.value)}
        />
      </label>
      <p className="muted">
        It is kept in this tab alone, until you close the tab. Make one with <code>surgeon key</code>.
      </p>
      <button className="primary" type="submit">
        Continue
      </button>
    </form>
  );
}
