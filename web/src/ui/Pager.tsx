interface Props {
  cursor: string | undefined;
  next: string | null | undefined;
  onMove: (cursor: string | undefined) => void;
}

/** Goes through a list that the service answers page by page; nothing where there is one page. */
export function Pager({ cursor, next, onMove }: Props) {
  if (!cursor && !next) return null;
  return (
    <div className="actions">
      {cursor && <button onClick={() => onMove(undefined)}>Back to the newest</button>}
      {next && <button onClick={() => onMove(next)}>Older ones</button>}
    </div>
  );
}
