@@route
@host@ u@ups@
@@end
