import { useState } from "react";
import type { Body } from "../form/pointer";
import { parsed } from "./request";

interface Props {
  body: Body;
  onChange: (body: Body) => void;
  /** Whether what is written is a request; while it is not, none can be sent. */
  onValid: (valid: boolean) => void;
}

/** The whole request as JSON: what has no field of its own is written here. */
export function RequestText({ body, onChange, onValid }: Props) {
  const shown = JSON.stringify(body, null, 2);
  // While it is edited the text is the reader's: half of it is no JSON.
  const [draft, setDraft] = useState<{ text: string; of: Body } | null>(null);
  const edited = draft && draft.of === body;
  const text = edited ? draft.text : shown;
  const result = parsed(text);
  const change = (next: string) => {
    const read = parsed(next);
    const now = "body" in read ? read.body : body;
    setDraft({ text: next, of: now });
    onValid("body" in read);
    if ("body" in read) onChange(now);
  };
  return (
    <section className="card">
      <details>
        <summary>The request as JSON</summary>
        <div className="field">
          <label htmlFor="request-text">Request</label>
          <textarea
            id="request-text"
            rows={Math.min(30, text.split("\n").length + 1)}
            value={text}
            spellCheck={false}
            aria-invalid={"fault" in result}
            aria-describedby="request-fault"
            onChange={(event) => change(event.target.value)}
          />
          <p id="request-fault" className="fault-words" role="alert">
            {"fault" in result && `This is no request yet: ${result.fault}`}
          </p>
        </div>
      </details>
    </section>
  );
}
