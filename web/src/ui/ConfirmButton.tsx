import { useRef, type ReactNode } from "react";

interface Props {
  label: string;
  /** What the button is called where others have the same label. */
  name?: string;
  question: string;
  children: ReactNode;
  disabled: boolean;
  onConfirm: () => void;
}

/** A button for what cannot be undone: it asks first. */
export function ConfirmButton({ label, name = label, question, children, disabled, onConfirm }: Props) {
  const dialog = useRef<HTMLDialogElement>(null);
  const confirm = () => {
    dialog.current?.close();
    onConfirm();
  };
  return (
    <>
      <button className="danger" aria-label={name} disabled={disabled} onClick={() => dialog.current?.showModal()}>
        {label}
      </button>
      <dialog ref={dialog} aria-label={question}>
        <h2>{question}</h2>
        <p>{children}</p>
        <div className="actions">
          <button onClick={() => dialog.current?.close()}>No, leave it</button>
          <button className="danger" onClick={confirm}>
            Yes, {label.toLowerCase()}
          </button>
        </div>
      </dialog>
    </>
  );
}
