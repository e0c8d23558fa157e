import { useState } from "react";

interface Props {
  /** What it is, as the button's name says: "Copy the specification". */
  what: string;
  text: string;
}

/** A text to read and to copy. */
export function CopyText({ what, text }: Props) {
  const [told, setTold] = useState("");
  const copy = () => {
    // Absent where the page came over plain HTTP from another machine.
    const clipboard = navigator.clipboard as Clipboard | undefined;
    if (!clipboard) {
      setTold("This browser copies only over HTTPS; select the text instead.");
      return;
    }
    clipboard.writeText(text).then(
      () => setTold("Copied"),
      () => setTold("The browser did not allow it; select the text instead."),
    );
  };
  return (
    <div className="copy">
      <div className="copy-bar">
        <span role="status">{told}</span>
        <button onClick={copy} aria-label={`Copy ${what}`}>
          Copy
        </button>
      </div>
      <pre tabIndex={0} role="region" aria-label={what}>
        {text}
      </pre>
    </div>
  );
}
